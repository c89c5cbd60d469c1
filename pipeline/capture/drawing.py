"""From the logits of a batch to its targets and statistics.

On a GPU nothing waits between two forwards: targets are drawn where the logits are, and their copy to the host is
waited for in `PendingTargets.result`, which the encoder's thread calls.

Shapes: P positions with a target of one batch in row-major order, p of one chunk of logits, S uniforms per position,
V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from logitlake.pipeline.targets.counter_random import document_keys, uniforms
from logitlake.pipeline.targets.on_device import counter_random, device_draw
from logitlake.pipeline.targets.on_device.padded_targets import PaddedTargets, coded_targets, concatenate_padded
from logitlake.pipeline.targets.on_device.slices import draw_in_slices
from logitlake.pipeline.targets.on_device.transfer import Transfer
from logitlake.pipeline.targets.sparsifiers import Sparsifier
from logitlake.pipeline.targets.sparsifiers.blocks import Blocks, Statistics, require_finite
from logitlake.pipeline.targets.sparsifiers.coded_targets import CodedTargets, concatenate
from logitlake.pipeline.targets.sparsifiers.scan import Scan
from logitlake.pipeline.teachers.devices import to_device
from logitlake.pipeline.teachers.engine import Engine
from logitlake.pipeline.tokens.sequences import TokenSequence


@dataclass(frozen=True, slots=True)
class Draw:
    """One kind of target to draw: its sparsifier, temperature and seed."""

    sparsifier: Sparsifier
    temperature: float
    seed: int


class PendingTargets:
    """Targets and statistics of a batch; on a GPU they may still be under way."""

    def __init__(
        self,
        levels: Sequence[int],
        on_host: Sequence[list[CodedTargets]],
        on_device: Sequence[PaddedTargets | None],
        statistics: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> None:
        """`statistics`: entropies, negative log-probs, and one bool per chunk: whether its logits were finite.

        Each draw has its targets on the host, or on the device.
        """
        self._levels, self._on_host = levels, on_host
        self._is_on_device = [padded is not None for padded in on_device]
        tensors = [tensor for padded in on_device if padded is not None for tensor in padded.tensors]
        # The widest numbers first: each array then begins at a multiple of its width.
        self._transfer = Transfer([*statistics[:2], *tensors, statistics[2]])

    def result(self) -> tuple[list[CodedTargets], Statistics]:
        """Wait for them. Raises SettingsError if logits were not finite. May be called in another thread."""
        entropy_P, nll_P, *arrays, are_finite = self._transfer.wait()
        require_finite(bool(are_finite.all()))
        fields = iter(arrays)
        targets = [
            coded_targets(next(fields), next(fields), next(fields), levels)
            if is_on_device
            else concatenate(parts, levels)
            for levels, is_on_device, parts in zip(self._levels, self._is_on_device, self._on_host, strict=True)
        ]
        return targets, Statistics(entropy=entropy_P, nll=nll_P)


def batch_targets(
    engine: Engine,
    batch: Sequence[TokenSequence],
    sparsifiers: Sequence[Sparsifier],
    *,
    temperature: float,
    seed: int,
) -> tuple[list[CodedTargets], Statistics]:
    """The targets of each sparsifier at one temperature; see `start_drawing`."""
    return start_drawing(engine, batch, [Draw(sparsifier, temperature, seed) for sparsifier in sparsifiers]).result()


def start_drawing(engine: Engine, batch: Sequence[TokenSequence], draws: Sequence[Draw]) -> PendingTargets:
    """One forward over a batch: the targets of each draw at its temperature, and statistics at temperature 1.

    Uniforms are keyed by document and by the label's absolute position in it: windows and batches do not change them.
    """
    labelled = [np.flatnonzero(sequence.has_target) for sequence in batch]
    counts = [len(indices) for indices in labelled]
    doc_ids = [sequence.doc_id for sequence in batch]
    drawing = _Drawing(
        draws,
        {s: np.repeat(document_keys(s, doc_ids), counts, axis=0) for s in {draw.seed for draw in draws}},
        np.concatenate([sequence.start + at + 1 for sequence, at in zip(batch, labelled, strict=True)]),
        np.concatenate([sequence.input_ids[at + 1] for sequence, at in zip(batch, labelled, strict=True)]),
        engine.device,
    )
    for logits_pV in engine.forward([s.input_ids for s in batch], [s.has_target for s in batch]):
        drawing.add(logits_pV)
    return drawing.pending()


class _Drawing:
    """Draws from one chunk of logits after the other."""

    def __init__(
        self,
        draws: Sequence[Draw],
        keys_P2: dict[int, NDArray[np.uint64]],
        labels_P: NDArray[np.int64],
        next_ids_P: NDArray[np.integer],
        device: torch.device,
    ) -> None:
        self._draws, self._keys_P2, self._labels_P, self._device = draws, keys_P2, labels_P, device
        self._next_ids_P = to_device(next_ids_P.astype(np.int64), device)
        self._n_drawn = 0
        self._on_host: list[list[CodedTargets]] = [[] for _ in draws]
        self._on_device: list[list[PaddedTargets]] = [[] for _ in draws]
        self._statistics: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    @cached_property
    def _sent_keys(self) -> dict[int, torch.Tensor]:
        """The keys of each seed, once a draw on the device needs them."""
        return {seed: to_device(keys.view(np.int64), self._device) for seed, keys in self._keys_P2.items()}

    @cached_property
    def _sent_labels(self) -> torch.Tensor:
        return to_device(self._labels_P.astype(np.int64), self._device)

    def add(self, logits_pV: torch.Tensor) -> None:
        chunk = slice(self._n_drawn, self._n_drawn + len(logits_pV))
        self._n_drawn = chunk.stop
        scans = {t: Scan(logits_pV, t) for t in {1.0, *(draw.temperature for draw in self._draws)}}
        nll_p = scans[1.0].negative_logprobs(self._next_ids_P[chunk])
        is_finite = torch.stack([scan.is_finite for scan in scans.values()]).all()
        self._statistics.append((scans[1.0].entropy(), nll_p, is_finite[None]))
        for number, draw in enumerate(self._draws):
            on_device = device_draw(draw.sparsifier, logits_pV.device.type)
            if on_device is None:
                blocks = Blocks.of(scans[draw.temperature])
                drawn = uniforms(self._keys_P2[draw.seed][chunk], self._labels_P[chunk], draw.sparsifier.streams)
                self._on_host[number].append(draw.sparsifier(blocks, drawn))
            else:
                keys_p2, labels_p = self._sent_keys[draw.seed][chunk], self._sent_labels[chunk]
                drawn_pS = counter_random.uniforms(keys_p2, labels_p, draw.sparsifier.streams)
                padded = draw_in_slices(on_device, draw.sparsifier, scans[draw.temperature], drawn_pS)
                self._on_device[number].append(padded)

    def pending(self) -> PendingTargets:
        n_labels = len(self._labels_P)
        assert self._n_drawn == n_labels, f"engine gave logits of {self._n_drawn} positions, expected {n_labels}"
        none = (torch.zeros(0, dtype=torch.float64),) * 2 + (torch.ones(0, dtype=torch.bool),)
        columns = list(zip(*self._statistics, strict=True)) or [(tensor,) for tensor in none]
        entropy_P, nll_P, are_finite = (torch.cat(column) for column in columns)
        return PendingTargets(
            [draw.sparsifier.levels for draw in self._draws],
            self._on_host,
            [concatenate_padded(parts) if parts else None for parts in self._on_device],
            (entropy_P, nll_P, are_finite),
        )
