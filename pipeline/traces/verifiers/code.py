"""Runs the code of a completion together with the tests of its prompt."""

import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import ClassVar, Literal

from pydantic import Field

from logitlake.pipeline.settings.verifier import Case, Judgement, VerifierSettings
from logitlake.pipeline.traces.verifiers.reference import reference_of
from logitlake.pipeline.traces.verifiers.sandbox import Limits, is_isolated, isolation, run_program
from logitlake.storage.errors import SettingsError

log = logging.getLogger(__name__)

# Three backticks within a line are passed over first: they open no block. A fence is looked for at the first of its
# backticks only, so that a long row of them takes no quadratic time.
_FENCED = re.compile(
    r"(?<!`)(?:```[^`\n]+```|(?P<fence>`{3,})(?P<label>[^`\n]*)\n(?P<code>.*?)(?:(?P=fence)`*|\Z))", re.DOTALL
)
_PYTHON = re.compile(r"\W*(?:(?:python|py)[\d.]*\b.*)?", re.IGNORECASE)


class CodeVerifier(VerifierSettings):
    """Score 1 if the completion's Python code runs with the reference behind it, which holds tests, else 0."""

    name: Literal["code"] = "code"
    version: ClassVar[int] = 2
    needs_reference: ClassVar[bool] = True
    only_how: ClassVar[frozenset[str]] = frozenset({"workers", "isolation"})

    with_prompt: bool = Field(
        False, description="the completion goes on with the prompt's code: run both, if it holds no block of code"
    )
    seconds: float = Field(10.0, gt=0, le=3600, description="time limit of one program")
    memory_bytes: int = Field(2**30, ge=2**26, description="address space of one program at most")
    workers: int | None = Field(None, ge=1, description="programs that run at once; none: one for each processor")
    isolation: Literal["required", "if_possible"] = Field(
        "if_possible", description="required: refuse to run where network and processes can't be taken away"
    )

    def judge(self, cases: Sequence[Case]) -> list[Judgement | None]:
        """Raises SettingsError for a case without tests, or if the isolation that is required can't be had."""
        if not is_isolated():
            if self.isolation == "required":
                raise SettingsError(
                    "generate.verifier.isolation required: `unshare` can't take network and other processes away here; "
                    "allow user namespaces, run in a container without network, or set isolation to if_possible"
                )
            _warn(network=not isolation())
        limits = Limits(seconds=self.seconds, memory_bytes=self.memory_bytes)
        programs = [program_of(case, reference_of(case, self.name), with_prompt=self.with_prompt) for case in cases]
        with ThreadPoolExecutor(self.workers or os.cpu_count() or 1, thread_name_prefix="verify") as pool:
            outcomes = list(pool.map(lambda program: run_program(program, limits), programs))
        return [Judgement(score=float(outcome.passed), reason=outcome.reason) for outcome in outcomes]


@lru_cache
def _warn(*, network: bool) -> None:
    """Once, not for each unit."""
    log.warning(
        "generated code runs %sbeside other processes, whose environment it may read, and what it starts may outlive "
        "it: `unshare` can't make the namespaces here",
        "with the network and " if network else "",
    )


def program_of(case: Case, tests: str, *, with_prompt: bool) -> str:
    """The code of a completion, then the tests: its last block of Python or without a language, else all of it."""
    blocks = [
        found["code"]
        for found in _FENCED.finditer(case.completion)
        if found["fence"] is not None and _PYTHON.fullmatch(found["label"])
    ]
    whole = case.prompt + case.completion if with_prompt else case.completion
    code = blocks[-1] if blocks else whole
    return f"{code}\n\n{tests}"
