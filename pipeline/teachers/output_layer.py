"""The output layer of a model by itself: from hidden states to logits, as the model's own code does it.

Shapes: P positions, p of one chunk, D hidden size, V ids of the tokenizer.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from logitlake.storage.errors import SettingsError

# Logits that exist at once: 64 M elements are 128 MB in bfloat16.
_CHUNK_ELEMENTS = 1 << 26
_CPU_CHUNK_ELEMENTS = 1 << 25
_PROBE_ROWS = 8


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Positions whose logits exist at once."""
    elements = _CPU_CHUNK_ELEMENTS if device.type == "cpu" else _CHUNK_ELEMENTS
    return max(1, elements // vocab_size)


class _BodyOutput(BaseModelOutput):
    """Hidden states, and None for whatever else a body of some architecture returns, such as the experts' routes."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class OutputLayer:
    """What follows the hidden states: one matrix with a bias, or whatever else the model's code does."""

    def __init__(self, head: Any, *, vocab_size: int, whole: Callable[[torch.Tensor], torch.Tensor] | None = None):
        """`head` is the module of the output matrix on its device. `whole` maps hidden states `[p, D]` to logits where
        the model does more than to apply `head`; None if it does not.
        """
        self._head = head
        self._vocab_size = vocab_size
        self._whole = whole
        self._logits_pV: torch.Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        return device_of(self._head)

    @property
    def description(self) -> str:
        """How logits are made of hidden states, for the record of a run."""
        return "direct" if self._whole is None else "the model's own code"

    def logits(self, hidden_PD: torch.Tensor) -> Iterator[torch.Tensor]:
        """Logits `[p, V]` in chunks of whole positions, in order; each is valid until the next one is requested."""
        for chunk_pD in hidden_PD.to(self.device).split(chunk_rows(self._vocab_size, self.device)):
            yield self._of_chunk(chunk_pD)

    def _of_chunk(self, hidden_pD: torch.Tensor) -> torch.Tensor:
        """Multiply only the tokenizer's rows of a plain output matrix, always into the same buffer.

        A new buffer for every chunk would add a fifth to the time on a CPU, by page faults.
        """
        head, n = self._head, self._vocab_size
        if self._whole is not None:
            return self._whole(hidden_pD)[:, :n].contiguous()
        if type(head) is not torch.nn.Linear or head.weight.device.type == "meta":
            return head(hidden_pD)[:, :n].contiguous()
        if self._logits_pV is None or len(self._logits_pV) < len(hidden_pD):
            self._logits_pV = hidden_pD.new_empty(len(hidden_pD), n)
        logits_pV, weight_DV = self._logits_pV[: len(hidden_pD)], head.weight[:n].t()
        if head.bias is None:
            return torch.mm(hidden_pD, weight_DV, out=logits_pV)
        return torch.addmm(head.bias[:n], hidden_pD, weight_DV, out=logits_pV)


def output_layer_of(model: Any, *, vocab_size: int) -> OutputLayer:
    """The output layer of a transformers model; all but its output matrix may be on the `meta` device.

    What the model's own code makes of hidden states, such as a soft cap or a scale, is kept: it is used unless the
    matrix alone gives the same, bit for bit. A tolerance would not detect a soft cap, which changes small logits by
    less than rounding. Raises SettingsError if the model's code can't be run from hidden states on.
    """
    head = model.get_output_embeddings()
    whole = forward_without_body(model)
    hidden_pD = torch.randn(_PROBE_ROWS, head.weight.shape[1]).to(device_of(head), head.weight.dtype)
    try:
        with torch.inference_mode():
            direct = torch.equal(whole(hidden_pD).float(), head(hidden_pD[None])[0].float())
    except (AttributeError, TypeError, RuntimeError) as error:
        raise SettingsError(
            f"teacher: {type(model).__name__}: its output layer can't be run by itself ({str(error).splitlines()[0]}); "
            "use teacher.engine transformers"
        ) from error
    return OutputLayer(head, vocab_size=vocab_size, whole=None if direct else whole)


def forward_without_body(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Logits `[p, V]` of hidden states `[p, D]` by the model's own forward, whose body returns these hidden states."""
    bodies = _bodies(model)

    def logits(hidden_pD: torch.Tensor) -> torch.Tensor:
        ids_1p = torch.zeros(1, len(hidden_pD), dtype=torch.long, device=hidden_pD.device)
        # A forward in the instance is that of a hook. That of the class is not put there: it would be a cycle.
        own = [body.__dict__.get("forward") for body in bodies]
        for body in bodies:
            body.forward = lambda *args, **kwargs: _BodyOutput(last_hidden_state=hidden_pD[None])
        try:
            result: torch.Tensor = model(input_ids=ids_1p, use_cache=False).logits[0]
        finally:
            for body, forward in zip(bodies, own, strict=True):
                del body.forward
                if forward is not None:
                    body.forward = forward
        return result

    return logits


def device_of(head: Any) -> torch.device:
    """Where a module computes: with a device map its weights may lie elsewhere, and are fetched for each call."""
    hook = getattr(head, "_hf_hook", None)
    execution_device = getattr(hook, "execution_device", None)
    device: torch.device = head.weight.device if execution_device is None else torch.device(execution_device)
    return device


def _bodies(model: Any) -> list[Any]:
    """The modules of which the model's forward calls one for hidden states: the decoder, or one around it."""
    candidates = (model.base_model, getattr(model, "model", None), model.get_decoder())
    return list({id(module): module for module in candidates if module is not None and module is not model}.values())
