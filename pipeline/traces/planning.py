"""Plans the writing of traces: prompts that lack a sample or a verdict → work units.

Memory is one look-up of prompts, one work unit, and about 100 bytes for each prompt.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from logitlake.pipeline.corpus.document import Reject
from logitlake.pipeline.traces.prompts import Prompt
from logitlake.pipeline.traces.writer import Request
from logitlake.storage.writing.traces import Sample

# One look-up in the lake, whatever the size of a unit: a run with nothing to do takes seconds.
_LOOKUP_PROMPTS = 1000
_REJECTS_PER_UNIT = 10_000

# The stored samples of these prompts by (prompt, number).
StoredSamples = Callable[[Sequence[str]], dict[tuple[str, int], Sample]]
# Those of these ids (of prompts and of their records) that are forgotten.
Forgotten = Callable[[Sequence[str]], set[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceUnit:
    """Samples to write, and traces in the lake to judge; `prompts` by id are those of both. Nothing of both: only
    rejects."""

    prompts: dict[str, Prompt]
    requests: tuple[Request, ...]
    unjudged: tuple[str, ...]
    rejects: tuple[Reject, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePlanSummary:
    """Counts of the plan so far. `tokens_at_most`: what the writer reads and writes if no completion ends early."""

    prompts: int = 0
    repeated: int = 0
    forgotten: int = 0
    rejected: int = 0
    samples_stored: int = 0
    samples_new: int = 0
    unjudged: int = 0
    prompt_tokens: int = 0
    tokens_at_most: int = 0
    units: int = 0


class TracePlan(Iterator[TraceUnit]):
    """The units in the order of the stream, those with something to do. Prompts of the same content count once."""

    def __init__(
        self,
        prompts: Iterable[Prompt | Reject],
        *,
        stored: StoredSamples,
        forgotten: Forgotten,
        n_samples: int,
        unit_prompts: int,
        max_new_tokens: int,
        max_prompts: int | None = None,
    ) -> None:
        self._stored = stored
        self._forgotten = forgotten
        self._n_samples = n_samples
        self._max_new_tokens = max_new_tokens
        self._max_prompts = max_prompts
        self._seen: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._units = self._make_units(prompts, unit_prompts)

    def __next__(self) -> TraceUnit:
        return next(self._units)

    @property
    def summary(self) -> TracePlanSummary:
        """Counts up to now; of the whole plan once there are no more units."""
        return TracePlanSummary(**self._counts)

    def _make_units(self, prompts: Iterable[Prompt | Reject], unit_prompts: int) -> Iterator[TraceUnit]:
        unit = _OpenUnit()
        for items in _groups(self._until_full(prompts), _LOOKUP_PROMPTS):
            for part in self._parts(items):
                unit.add(part)
                if len(unit.prompts) >= unit_prompts or len(unit.rejects) >= _REJECTS_PER_UNIT:
                    yield self._closed(unit)
                    unit = _OpenUnit()
        if unit.prompts or unit.rejects:
            yield self._closed(unit)

    def _until_full(self, prompts: Iterable[Prompt | Reject]) -> Iterator[Prompt | Reject]:
        """Each prompt once, up to `max_prompts`."""
        for item in prompts:
            if isinstance(item, Reject):
                yield item
                continue
            if item.prompt_id in self._seen:
                self._counts["repeated"] += 1
                continue
            if self._max_prompts is not None and len(self._seen) >= self._max_prompts:
                return
            self._seen.add(item.prompt_id)
            yield item

    def _parts(self, items: Sequence[Prompt | Reject]) -> Iterator["_Part | Reject"]:
        """The rejects, and the prompts with something to do; one look-up for all of them."""
        found = [item for item in items if isinstance(item, Prompt)]
        forgotten = self._forgotten([name for prompt in found for name in (prompt.prompt_id, prompt.doc_id)])
        stored = self._stored([prompt.prompt_id for prompt in found])
        for item in items:
            if isinstance(item, Reject):
                self._counts["rejected"] += 1
                yield item
                continue
            self._counts["prompts"] += 1
            if {item.prompt_id, item.doc_id} & forgotten:
                self._counts["forgotten"] += 1
                continue
            samples = {number: stored.get((item.prompt_id, number)) for number in range(self._n_samples)}
            part = _Part(
                item,
                missing=tuple(number for number, sample in samples.items() if sample is None),
                unjudged=tuple({s.doc_id for s in samples.values() if s and s.doc_id and not _is_judged(s, item)}),
            )
            self._count(part)
            if part.missing or part.unjudged:
                yield part

    def _count(self, part: "_Part") -> None:
        n_prompt_tokens = len(part.prompt.ids) * len(part.missing)
        self._counts.update(
            samples_stored=self._n_samples - len(part.missing),
            samples_new=len(part.missing),
            unjudged=len(part.unjudged),
            prompt_tokens=n_prompt_tokens,
            tokens_at_most=n_prompt_tokens + self._max_new_tokens * len(part.missing),
        )

    def _closed(self, unit: "_OpenUnit") -> TraceUnit:
        self._counts["units"] += bool(unit.prompts)
        return TraceUnit(
            prompts=unit.prompts,
            requests=tuple(unit.requests),
            unjudged=tuple(unit.unjudged),
            rejects=tuple(unit.rejects),
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """A prompt, the numbers of its missing samples, and its traces that wait for a verdict."""

    prompt: Prompt
    missing: tuple[int, ...]
    unjudged: tuple[str, ...]


class _OpenUnit:
    """A unit that is being filled."""

    def __init__(self) -> None:
        self.prompts: dict[str, Prompt] = {}
        self.requests: list[Request] = []
        self.unjudged: list[str] = []
        self.rejects: list[Reject] = []

    def add(self, part: _Part | Reject) -> None:
        if isinstance(part, Reject):
            self.rejects.append(part)
            return
        prompt = part.prompt
        self.prompts[prompt.prompt_id] = prompt
        self.requests += [
            Request(prompt_id=prompt.prompt_id, number=number, prompt_ids=prompt.ids) for number in part.missing
        ]
        self.unjudged += part.unjudged


def _is_judged(sample: Sample, prompt: Prompt) -> bool:
    return sample.is_judged and sample.reference_id == prompt.reference_id


def _groups(items: Iterable[Prompt | Reject], most: int) -> Iterator[list[Prompt | Reject]]:
    group: list[Prompt | Reject] = []
    for item in items:
        group.append(item)
        if len(group) == most:
            yield group
            group = []
    if group:
        yield group
