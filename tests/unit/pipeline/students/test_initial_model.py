from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from logitlake.pipeline.settings.models import LoraSettings, StudentSettings
from logitlake.pipeline.students.identity import Parent, find_parent
from logitlake.pipeline.students.initial_model import cut_layers, kept_layers, make_student
from logitlake.pipeline.teachers.files import TeacherFiles
from logitlake.storage.errors import MismatchError, SettingsError

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


def test_a_cut_that_would_be_saved_as_another_model_is_refused(tmp_path):
    """This config says by a layer's number which layers are dense: cut, other layers would be."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(
        vocab_size=211,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=8,
        num_hidden_layers=8,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        n_shared_experts=1,
        first_k_dense_replace=3,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    )
    DeepseekV3ForCausalLM(config).save_pretrained(tmp_path / "teacher")
    files = TeacherFiles(directory=tmp_path / "teacher", teacher_hash="w" * 32, name="moe")
    with pytest.raises(SettingsError, match=r"load with other tensors .*layers\.2\.mlp"):
        make(StudentSettings(layers=4), files)
