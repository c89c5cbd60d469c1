"""Whether a model keeps the sequences of a line apart when their positions begin again at 0.

transformers then masks attention by blocks. A recurrent layer, a convolution, or a model that takes its positions from
the place in the line does not follow, and its loss would be another one. A small forward tells, for any architecture.

Shapes: B lines of T tokens; D hidden size.
"""

import torch

from logitlake.pipeline.training.output_layer import ModelParts
from logitlake.storage.errors import MismatchError

# Tokens of the sequences of each line; the first line is full, the second is padded.
_LINES = ((7, 9, 6), (11, 5))
# After the longest sequence.
_SHORT = 9
# Of the difference that sequences make which do see each other; rounding makes far less.
_LARGEST_SHARE = 0.02


def check_packing(parts: ModelParts, longest: int) -> None:
    """Compare sequences in packed lines with the same sequences alone; `longest` is the length of the longest row.

    Raises MismatchError if a sequence depends on another one of its line, be it on its length only, as some scalings of
    RoPE do beyond a length.
    """
    was_training = parts.model.training
    parts.model.eval()
    try:
        share = _difference(parts)
        beside_longest = _difference_beside(parts, longest)
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        raise _refusal(parts, f"its decoder can't be given positions: {error}") from error
    finally:
        parts.model.train(was_training)
    if not share <= _LARGEST_SHARE:
        raise _refusal(
            parts, "its sequences see others of their line, as in recurrent layers and with positions of its own"
        )
    if not beside_longest <= _LARGEST_SHARE:
        raise _refusal(parts, f"its positions depend on the longest sequence of a batch, here {longest} tokens")


@torch.no_grad()
def _difference(parts: ModelParts) -> float:
    """How far packed sequences are from the same alone, over how far sequences are that are only joined."""
    embeddings = parts.model.get_input_embeddings()
    width = max(map(sum, _LINES))
    ids_BT = torch.arange(len(_LINES) * width, device=embeddings.weight.device).view(len(_LINES), width)
    ids_BT = ids_BT * 7 % embeddings.weight.shape[0]
    position_ids_BT = torch.zeros_like(ids_BT)
    sequences = []
    for line, lengths in enumerate(_LINES):
        begin = 0
        for length in (*lengths, width - sum(lengths)):
            position_ids_BT[line, begin : begin + length] = torch.arange(length)
            sequences.append((line, slice(begin, begin + length)))
            begin += length
    packed_BTD, joined_BTD = parts.hidden(ids_BT, position_ids_BT), parts.hidden(ids_BT)
    packed = joined = 0.0
    for line, place in sequences:
        if place.start == place.stop:
            continue
        alone_TD = parts.hidden(ids_BT[line : line + 1, place])[0].float()
        packed += float((packed_BTD[line, place].float() - alone_TD).square().sum())
        joined += float((joined_BTD[line, place].float() - alone_TD).square().sum())
    return (packed / joined) ** 0.5 if joined else 0.0 if not packed else float("inf")


@torch.no_grad()
def _difference_beside(parts: ModelParts, longest: int) -> float:
    """How far a short sequence after the longest one is from the same alone, over its own size."""
    embeddings = parts.model.get_input_embeddings()
    ids_1T = torch.arange(longest + _SHORT, device=embeddings.weight.device)[None] * 7 % embeddings.weight.shape[0]
    position_ids_1T = torch.cat([torch.arange(longest), torch.arange(_SHORT)]).to(ids_1T.device)[None]
    alone_TD = parts.hidden(ids_1T[:, longest:])[0].float()
    packed_TD = parts.hidden(ids_1T, position_ids_1T)[0, longest:].float()
    return float((packed_TD - alone_TD).norm() / alone_TD.norm().clamp(min=torch.finfo(torch.float32).tiny))


def _refusal(parts: ModelParts, reason: str) -> MismatchError:
    return MismatchError(
        f"training.packing: {type(parts.model).__name__} can't be trained on packed sequences: {reason}; "
        "set training.packing to false"
    )
