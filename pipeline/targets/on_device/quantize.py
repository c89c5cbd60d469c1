"""Probabilities as multiples of 1/levels, rounded without bias: `targets/quantize.py` for padded heads.

Shapes: P positions, H heads at most.
"""

import torch

_TINY = torch.finfo(torch.float64).tiny


def systematic_codes(
    weights_PH: torch.Tensor, rest_P: torch.Tensor, uniforms_P: torch.Tensor, levels: int
) -> torch.Tensor:
    """Codes `int64[P, H]` of heads whose probability is weight / (heads + rest of the position).

    A head that is not there has weight 0, stands after all others and gets code 0. Where `rest_P` is exactly 0 the
    codes of a position sum to exactly `levels`.
    """
    sums_PH = weights_PH.double().cumsum(dim=1)
    scale_P = levels / (sums_PH[:, -1] + rest_P).clamp(min=_TINY)
    scaled_PH = sums_PH * scale_P[:, None]
    places_H = torch.arange(weights_PH.shape[1], device=weights_PH.device)
    is_last_PH = places_H >= (weights_PH > 0).sum(dim=1, keepdim=True) - 1
    scaled_PH = torch.where(is_last_PH & (rest_P <= 0)[:, None], float(levels), scaled_PH)
    # Just below `levels`, adding the uniform may round up to levels + 1: hence the bound.
    reached_PH = torch.floor(scaled_PH + uniforms_P[:, None]).clamp(max=levels).long()
    before_PH = torch.nn.functional.pad(reached_PH, (1, 0))[:, :-1]
    return reached_PH - before_PH
