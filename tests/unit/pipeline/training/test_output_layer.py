import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from logitlake.pipeline.reading.batches import make_batch
from logitlake.pipeline.training.losses import sparse_divergence_of_logits
from logitlake.pipeline.training.model_loss import LossSettings, attach_loss, batch_inputs, detach_loss, model_loss
from logitlake.pipeline.training.output_layer import take_apart
from logitlake.storage.errors import MismatchError

# PEFT asks transformers by a name that is about to change.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

SMALL = {
    "vocab_size": 211,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**SMALL | changes))


def llama_with_bias():
    model = llama(tie_word_embeddings=False)
    model.lm_head = torch.nn.Linear(32, 211, bias=True)
    torch.nn.init.normal_(model.lm_head.bias)
    return model


def llama_with_lora_on_its_output():
    adapted = get_peft_model(llama(tie_word_embeddings=False), LoraConfig(r=2, target_modules=["lm_head", "q_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return adapted


MODELS = {
    "tied": llama,
    "untied": lambda: llama(tie_word_embeddings=False),
    "bias": llama_with_bias,
    "lora on it": llama_with_lora_on_its_output,
    "lora elsewhere": lambda: get_peft_model(llama(), LoraConfig(r=2, target_modules=["q_proj"])),
    "soft cap": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL | {"final_logit_softcapping": 2.0})),
    "scale": lambda: CohereForCausalLM(CohereConfig(**SMALL | {"logit_scale": 0.3})),
}
PLAIN = {"tied", "untied", "lora elsewhere"}


@pytest.fixture(params=MODELS)
def named_model(request):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return request.param, MODELS[request.param]()


def test_only_a_plain_matrix_is_taken_for_one(named_model):
    name, model = named_model
    parts = take_apart(model)
    assert (parts.weight is not None) == (name in PLAIN)
    assert parts.vocab_size == 211


def test_loss_and_gradients_are_those_of_the_models_own_logits(named_model, make_rows):
    _, model = named_model
    batch = make_batch(make_rows([7, 12, 5]))
    parts = take_apart(model)
    model.train()
    loss = model_loss(parts, batch, LossSettings(cross_entropy_weight=0.2, chunk=6))
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    logits = model(input_ids=batch.input_ids).logits.flatten(0, 1)
    expected = sparse_divergence_of_logits(logits, batch.targets, batch.next_ids.flatten(), cross_entropy_weight=0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    wanted = torch.autograd.grad(expected, trained, allow_unused=True)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_loss_in_evaluation_is_the_loss_in_training(named_model, make_rows):
    _, model = named_model
    batch = make_batch(make_rows([7, 12, 5]))
    parts = attach_loss(model, LossSettings())
    training = model.train()(**batch_inputs(batch)).item()
    with torch.no_grad():
        assert model.eval()(**batch_inputs(batch)).item() == pytest.approx(training, rel=1e-6)
        assert model_loss(parts, batch, LossSettings()).item() == pytest.approx(training, rel=1e-6)


def test_a_model_is_itself_again_when_the_loss_is_taken_off(named_model):
    _, model = named_model
    ids = torch.arange(5).unsqueeze(0)
    before = model.eval()(input_ids=ids).logits
    state = set(model.state_dict())
    attach_loss(model, LossSettings())
    assert set(model.state_dict()) == state
    detach_loss(model)
    torch.testing.assert_close(model(input_ids=ids).logits, before)


def test_gradient_checkpointing_changes_no_gradient(make_rows):
    torch.manual_seed(0)
    batch = make_batch(make_rows([7, 12]))
    model = llama(num_hidden_layers=3).train()
    attach_loss(model, LossSettings())
    model(**batch_inputs(batch)).backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model(**batch_inputs(batch)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


def test_a_compiled_model_gives_the_same_loss(make_rows):
    torch.manual_seed(0)
    batch = make_batch(make_rows([7, 12]))
    model = llama()
    attach_loss(model, LossSettings())
    expected = model(**batch_inputs(batch))
    compiled = torch.compile(model, backend="eager")
    found = compiled(**batch_inputs(batch))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_padding_changes_no_loss(make_rows):
    torch.manual_seed(0)
    rows = make_rows([6, 19, 11])
    parts = take_apart(llama().eval())
    n = sum(rows["n_targets"].to_pylist())
    with torch.no_grad():
        together = model_loss(parts, make_batch(rows), LossSettings())
        apart = sum(model_loss(parts, make_batch(rows.slice(i, 1)), LossSettings(), divisor=n) for i in range(3))
        other_pad = model_loss(parts, make_batch(rows, pad_id=5), LossSettings())
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    assert together.item() == pytest.approx(other_pad.item(), rel=1e-6)


def test_a_model_without_an_output_layer_is_refused():
    with pytest.raises(MismatchError, match="expected a causal language model"):
        take_apart(llama().model)


@pytest.fixture
def one_rank(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("tied", [False, True])
def test_the_output_layer_learns_when_its_parameters_are_sharded_after_the_loss_was_attached(make_rows, one_rank, tied):
    from torch.distributed.fsdp import fully_shard

    batch = make_batch(make_rows([5, 9], vocab=211))
    gradients = {}
    for sharded in (False, True):
        torch.manual_seed(0)
        model = llama(tie_word_embeddings=tied)
        attach_loss(model, LossSettings())
        if sharded:
            fully_shard(model, mesh=one_rank)
        model(**batch_inputs(batch)).backward()
        found = model.lm_head.weight.grad
        gradients[sharded] = found.full_tensor() if sharded else found
    torch.testing.assert_close(gradients[True], gradients[False])
