"""Splits a causal language model into decoder and output layer, so that a loss makes logits for some positions only.

Most models end in a plain matrix, which the loss multiplies itself. For any other output layer (bias, adapter, soft
cap, scale) the model's own code makes the logits of each chunk. One small forward with a hook tells the two apart;
comparing logits would not, because a soft cap changes small logits by less than rounding.

Shapes: P positions; D hidden size; V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from logitlake.storage.errors import MismatchError

_PROBE_TOKENS = 8


@dataclass(frozen=True, slots=True)
class ModelParts:
    """A causal language model taken apart: `decoder` gives hidden states, `weight` [V, D] or `logits` gives logits.

    `head` is None if the output layer is not a plain matrix; `logits` works for every model.
    """

    model: torch.nn.Module
    decoder: torch.nn.Module
    head: torch.nn.Linear | None
    vocab_size: int

    @property
    def weight(self) -> torch.Tensor | None:
        """The output layer's current matrix: FSDP replaces the parameters that it wraps."""
        return None if self.head is None else self.head.weight

    def hidden(self, input_ids_BT: torch.Tensor, position_ids_BT: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states [B, T, D]. Padding must be on the right, where causal attention ignores it.

        `position_ids_BT` begins again at 0 with each sequence of a line: see packing.py.
        """
        positions = {} if position_ids_BT is None else {"position_ids": position_ids_BT}
        return self.decoder(input_ids=input_ids_BT, use_cache=False, **positions).last_hidden_state

    def logits(self, hidden_PD: torch.Tensor) -> torch.Tensor:
        """Logits [P, V] as the model itself makes them from hidden states."""
        if self.weight is not None:
            return torch.nn.functional.linear(hidden_PD, self.weight)
        ids_1P = torch.zeros((1, len(hidden_PD)), dtype=torch.long, device=hidden_PD.device)
        with _decoder_returns(self.decoder, hidden_PD.unsqueeze(0)):
            # The class's own forward: the instance's may be wrapped to give a loss.
            return type(self.model).forward(self.model, input_ids=ids_1P, use_cache=False).logits.squeeze(0)


def take_apart(model: Any) -> ModelParts:
    """The parts of a causal language model, PEFT-wrapped or not, checked against its own logits.

    Raises MismatchError if its logits do not follow from its decoder's hidden states.
    """
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    decoder, head = inner.get_decoder(), inner.get_output_embeddings()
    if decoder is None or decoder is inner or head is None:
        raise MismatchError(
            f"{type(inner).__name__}: expected a causal language model with a decoder and an output layer"
        )
    was_training = model.training
    model.eval()
    try:
        return _probed(inner, decoder, head)
    finally:
        model.train(was_training)


@torch.no_grad()
def _probed(inner: Any, decoder: Any, head: Any) -> ModelParts:
    rows = inner.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(_PROBE_TOKENS, device=inner.device) % rows).unsqueeze(0)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hook = head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        logits = type(inner).forward(inner, input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    parts = ModelParts(inner, decoder, None, logits.shape[-1])
    hidden = parts.hidden(ids)
    plain = type(head) is torch.nn.Linear and head.bias is None and len(seen) == 1
    # NaN equals NaN here: a student whose training diverged must be evaluated, not refused.
    if plain and _same(seen[0][1], logits, rtol=0, atol=0) and _same(seen[0][0], hidden):
        return ModelParts(inner, decoder, head, logits.shape[-1])
    if not _same(parts.logits(hidden[0]), logits[0], rtol=1e-2, atol=1e-3):
        raise MismatchError(
            f"{type(inner).__name__}: its logits do not follow from its decoder's last hidden states alone, "
            "so it can't be trained from the cache"
        )
    return parts


def _same(one: torch.Tensor, other: torch.Tensor, **tolerances: float) -> bool:
    return torch.allclose(one, other, equal_nan=True, **tolerances)


@contextmanager
def _decoder_returns(decoder: torch.nn.Module, hidden: torch.Tensor) -> Iterator[None]:
    """Inside this context the decoder returns `hidden` for any input."""
    before = decoder.__dict__.get("forward")
    decoder.__dict__["forward"] = lambda *_, **__: BaseModelOutputWithPast(last_hidden_state=hidden)
    try:
        yield
    finally:
        del decoder.__dict__["forward"]
        if before is not None:
            decoder.__dict__["forward"] = before
