from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from logitlake.pipeline.model_files.files import TeacherFiles
from logitlake.pipeline.settings.models import LoraSettings, StudentSettings
from logitlake.pipeline.students.cut_layers import cut_layers, cut_value, kept_layers
from logitlake.pipeline.students.identity import Parent, find_parent
from logitlake.pipeline.students.initial_model import make_student
from logitlake.pipeline.students.lora import merged
from logitlake.storage.errors import MismatchError, SettingsError
from tests.tiny_architectures import tiny_model
from tests.tiny_models import make_tiny_llama

RECIPE = {"vocabulary": 211, "teacher": {"name": "llama-1M", "weights": "w" * 32, "adapter": None}}


@pytest.fixture
def teacher(tiny_config, tmp_path):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**tiny_config | {"num_hidden_layers": 7})).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "teacher")
    return TeacherFiles(directory=tmp_path / "teacher", teacher_hash="w" * 32, name="llama")


def make(settings, teacher=None, seed=0):
    parent = Parent(
        parent_id="p",
        content_id="p",
        directory=teacher.directory if teacher else None,
        tokenizer_directory=None,
    )
    return make_student(settings, parent, RECIPE, teacher=teacher, seed=seed)


@pytest.mark.parametrize(("total", "wanted"), [(30, 10), (7, 3), (7, 7), (12, 2), (5, 4)])
def test_kept_layers_are_different_and_hold_the_first_and_the_last(total, wanted):
    kept = kept_layers(total, wanted)
    assert len(set(kept)) == wanted
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (0, total - 1)
    assert max(b - a for a, b in pairwise(kept)) <= -(-total // (wanted - 1))


@pytest.mark.parametrize("wanted", [0, 8])
def test_more_layers_than_there_are_is_refused(wanted):
    with pytest.raises(SettingsError, match=r"expected 1 to 7"):
        kept_layers(7, wanted)


def test_a_student_cut_from_the_teacher_has_its_layers_in_float32(teacher):
    student = make(StudentSettings(layers=3), teacher)
    original = LlamaForCausalLM.from_pretrained(teacher.directory)
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert student.config.num_hidden_layers == 3
    for position, index in enumerate([0, 3, 6]):
        ours, theirs = student.model.layers[position], original.model.layers[index]
        assert torch.equal(ours.mlp.up_proj.weight, theirs.mlp.up_proj.weight.float())
        assert ours.self_attn.layer_idx == position


def test_a_cut_student_saves_and_loads_and_generates(teacher, tmp_path):
    student = make(StudentSettings(layers=2), teacher)
    student.save_pretrained(tmp_path / "s")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "s")
    ids = torch.arange(6).unsqueeze(0)
    torch.testing.assert_close(again(ids).logits, student.eval()(ids).logits)
    assert again.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0).shape == (1, 9)


def test_settings_of_single_layers_follow_the_layers():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        layer_types=kinds,
        sliding_window=4,
        use_sliding_window=True,
        max_window_layers=1,
    )
    student = cut_layers(Qwen2ForCausalLM(config), 3)
    assert student.config.layer_types == [kinds[0], kinds[2], kinds[3]]
    assert student(torch.arange(8).unsqueeze(0)).logits.shape == (1, 8, 50)


def test_cutting_without_the_teacher_says_what_to_do():
    with pytest.raises(SettingsError, match="start from a checkpoint"):
        make(StudentSettings(layers=3))


def test_another_teacher_than_the_recipes_is_refused(teacher):
    recipe = RECIPE | {"teacher": RECIPE["teacher"] | {"weights": "x" * 32}}
    with pytest.raises(MismatchError, match=f"{'x' * 32}.*{'w' * 32}"):
        find_parent(StudentSettings(layers=3), recipe, teacher)


def test_the_parent_of_a_cut_student_is_the_same_with_the_teacher_gone(teacher):
    settings = StudentSettings(layers=3)
    assert find_parent(settings, RECIPE, teacher).parent_id == find_parent(settings, RECIPE, None).parent_id


def test_fresh_weights_are_a_function_of_the_seed(teacher):
    settings = StudentSettings(source="config", model=str(teacher.directory))
    first, again, other = (make(settings, teacher, seed).lm_head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_checkpoint_is_taken_as_it_is(teacher):
    student = make(StudentSettings(source="checkpoint", model=str(teacher.directory)), teacher)
    assert len(student.model.layers) == 7


def test_a_vocabulary_smaller_than_the_recipes_is_refused(teacher):
    settings = StudentSettings(layers=3)
    parent = Parent(parent_id="p", content_id="p", directory=None, tokenizer_directory=None)
    with pytest.raises(MismatchError, match=r"at least 212 rows.*found 211"):
        make_student(settings, parent, RECIPE | {"vocabulary": 212}, teacher=teacher, seed=0)


def test_lora_trains_its_own_weights_only(teacher):
    student = make(StudentSettings(layers=2, lora=LoraSettings(rank=2)), teacher)
    assert {name.split(".")[-3][:4] for name, p in student.named_parameters() if p.requires_grad} == {"lora"}


def test_a_directory_that_is_no_model_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"student\.model .*nowhere"):
        find_parent(StudentSettings(source="checkpoint", model=str(tmp_path / "nowhere")), RECIPE, None)


def test_a_cut_that_no_config_describes_is_refused(tmp_path):
    """This config says by a layer's number which layers have attention: cut, other layers would."""
    tiny_model("jamba").save_pretrained(tmp_path / "teacher")
    files = TeacherFiles(directory=tmp_path / "teacher", teacher_hash="w" * 32, name="jamba")
    with pytest.raises(SettingsError, match=r"load with other tensors .*layers\.1\.feed_forward"):
        make(StudentSettings(layers=3), files)


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("layer_types", ["a", "b", "c", "d", "e", "f"], ["a", "c", "f"]),
        ("no_rope_layers", [1, 1, 1, 0, 1, 1], [1, 1, 1]),
        ("moe_layers", [0, 1, 2, 3, 4, 5], [0, 1, 2]),
        ("mlp_only_layers", [2, 3], [1]),
        ("mlp_only_layers", [], []),
        ("per_layer_config", {"2": "x", "4": "y"}, {"1": "x"}),
        ("first_k_dense_replace", 3, 2),
        ("num_kv_shared_layers", 2, 1),
        ("mrope_section", [8, 12, 12, 0, 0, 0], None),
        ("vocab_size", 3, None),
    ],
)
def test_settings_about_single_layers_are_cut_with_them(setting, value, expected):
    """Six layers, of which the first, the third and the last are left."""
    assert cut_value(setting, value, 6, [0, 2, 5]) == expected


def test_a_cut_student_computes_what_its_numbers_say_after_it_was_saved(tmp_path):
    """This architecture makes a scale from a layer's number: the cut layer has that of its new number."""
    tiny_model("diffllama").save_pretrained(tmp_path / "teacher")
    files = TeacherFiles(directory=tmp_path / "teacher", teacher_hash="w" * 32, name="diffllama")
    student = make(StudentSettings(layers=2), files)
    student.save_pretrained(tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    ids = torch.arange(6).unsqueeze(0)
    assert torch.equal(again(ids).logits, student.eval()(ids).logits)


def tied_student(tmp_path, targets):
    make_tiny_llama().save_pretrained(tmp_path / "tied")
    files = TeacherFiles(directory=tmp_path / "tied", teacher_hash="w" * 32, name="llama")
    settings = StudentSettings(
        source="checkpoint", model=str(tmp_path / "tied"), lora=LoraSettings(rank=2, target_modules=targets)
    )
    student = make(settings, files)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.3)
    return student.eval()


@pytest.mark.parametrize("targets", [("lm_head",), ("embed_tokens",), ("lm_head", "embed_tokens"), ("q_proj",)])
def test_an_adapter_on_a_tied_layer_is_merged_into_that_layer_alone(tmp_path, targets):
    student = tied_student(tmp_path, targets)
    ids = torch.arange(6).unsqueeze(0)
    before = student(input_ids=ids).logits
    whole = merged(student, "student.lora")
    whole.save_pretrained(tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    torch.testing.assert_close(again(ids).logits, before, rtol=1e-4, atol=1e-5)
    assert again.config.tie_word_embeddings == (targets == ("q_proj",))


def test_a_student_cut_from_a_teacher_with_an_adapter_on_a_tied_layer_starts_as_that_teacher(tmp_path):
    adapted = tied_student(tmp_path, ("lm_head", "q_proj"))
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    files = TeacherFiles(
        directory=tmp_path / "tied",
        teacher_hash="w" * 32,
        name="llama",
        adapter_directory=tmp_path / "adapter",
        adapter_hash="a" * 32,
    )
    student = make(StudentSettings(layers=2), files).eval()
    ids = torch.arange(6).unsqueeze(0)
    torch.testing.assert_close(student(ids).logits, adapted(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    student.save_pretrained(tmp_path / "student")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert torch.equal(again(ids).logits, student(ids).logits)
