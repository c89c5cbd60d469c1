"""Plans the writing of traces: prompts that lack a sample or a verdict → work units.

Memory is one work unit, and about 100 bytes for each prompt.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from logitlake.pipeline.corpus.document import Reject
from logitlake.pipeline.traces.prompts import Prompt
from logitlake.pipeline.traces.writer import Request
from logitlake.storage.writing.traces import Sample

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
        for items in _groups(self._until_full(prompts), unit_prompts):
            unit = self._unit(items)
            if unit.requests or unit.unjudged or unit.rejects:
                self._counts["units"] += bool(unit.requests or unit.unjudged)
                yield unit

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

    def _unit(self, items: Sequence[Prompt | Reject]) -> TraceUnit:
        rejects = tuple(item for item in items if isinstance(item, Reject))
        found = [item for item in items if isinstance(item, Prompt)]
        forgotten = self._forgotten([name for prompt in found for name in (prompt.prompt_id, prompt.doc_id)])
        prompts = [prompt for prompt in found if not {prompt.prompt_id, prompt.doc_id} & forgotten]
        stored = self._stored([prompt.prompt_id for prompt in prompts])
        requests = [
            Request(prompt_id=prompt.prompt_id, number=number, prompt_ids=prompt.ids)
            for prompt in prompts
            for number in range(self._n_samples)
            if (prompt.prompt_id, number) not in stored
        ]
        samples = [sample for (_, number), sample in stored.items() if number < self._n_samples]
        unjudged = tuple(sorted({sample.doc_id for sample in samples if not sample.is_judged}))
        n_prompt_tokens = sum(len(request.prompt_ids) for request in requests)
        self._counts.update(
            prompts=len(found),
            forgotten=len(found) - len(prompts),
            rejected=len(rejects),
            samples_stored=len(samples),
            samples_new=len(requests),
            unjudged=len(unjudged),
            prompt_tokens=n_prompt_tokens,
            tokens_at_most=n_prompt_tokens + self._max_new_tokens * len(requests),
        )
        return TraceUnit(
            prompts={prompt.prompt_id: prompt for prompt in prompts},
            requests=tuple(requests),
            unjudged=unjudged,
            rejects=rejects,
        )


def _groups(items: Iterable[Prompt | Reject], most: int) -> Iterator[list[Prompt | Reject]]:
    group: list[Prompt | Reject] = []
    for item in items:
        group.append(item)
        if len(group) == most:
            yield group
            group = []
    if group:
        yield group
