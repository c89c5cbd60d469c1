"""Bytes per token of other systems, as published or computed from their format."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Bytes per token from `low` to `high`, and the source of the numbers."""

    name: str
    low: float
    high: float
    source: str


PEERS = (
    Peer(
        name="Axolotl",
        low=3700,
        high=3700,
        source="Axolotl, knowledge distillation from prepared log-probabilities: JSON lines, about 3,700",
    ),
    Peer(
        name="Megatron-LM, 128 ids",
        low=528,
        high=528,
        source="NVIDIA Megatron-LM, offline knowledge distillation: 128 log-probs of 16 bits, ids of 17 bits, raw",
    ),
    Peer(
        name="DistillKit, recommended",
        low=312,
        high=344,
        source="Arcee AI DistillKit, compressed logits, the recommended settings",
    ),
    Peer(
        name="Megatron-LM, 64 ids",
        low=320,
        high=320,
        source="NVIDIA Megatron-LM, offline knowledge distillation with 64 ids, raw",
    ),
    Peer(
        name="TinyViT",
        low=256,
        high=256,
        source="Wu et al., TinyViT, ECCV 2022: sparse logits kept of each distribution",
    ),
    Peer(
        name="DistillKit, budget",
        low=114,
        high=127,
        source="Arcee AI DistillKit, compressed logits, the settings for a small budget",
    ),
    Peer(
        name="RS-KD",
        low=36,
        high=36,
        source="Anshumann et al., Sparse Logit Sampling, ACL 2025: 12 ids of 24 bits on average",
    ),
)
