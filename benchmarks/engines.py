"""A capture by vLLM over vLLM's own prefill of the same prompts, and over a capture by transformers.

Needs `make vllm`, or LOGITLAKE_VLLM_PYTHON: the Python of an environment that has vLLM.

- logitlake, vllm: the whole capture, shards committed; units and warm-up as in benchmarks.capture.
- vLLM's prefill: vLLM alone generates one token for each prompt, so that all it does is to read the prompts.
- logitlake, transformers: the same capture by the other engine.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks.capture import capture_config, measure_capture, sequences_of
from benchmarks.harness import Arm, Benchmark, Measurements, Runs, run
from benchmarks.reporting import Reach, Summary
from benchmarks.speed import plot_speed, speed_table
from benchmarks.surroundings import REPOSITORY
from logitlake.flows.capture.preparation import prepare
from logitlake.pipeline.teachers.dtype import resolve_dtype

PYTHON_VARIABLE = "LOGITLAKE_VLLM_PYTHON"
_PREFILL = Path(__file__).with_name("peers") / "vllm_prefill.py"
# A CPU is shared with others: not bound to processors, and as few threads as torch has here.
_CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def vllm_python() -> str:
    """The Python that has vLLM."""
    return os.environ.get(PYTHON_VARIABLE) or str(REPOSITORY / ".venv-vllm" / "bin" / "python")


def measure_vllm(quick: bool) -> Measurements:
    """The capture by the engine vllm."""
    os.environ.update(_CPU)
    return measure_capture(quick, {"engine": "vllm", "vllm": {"python": vllm_python()}})


def measure_prefill(quick: bool) -> Measurements:
    """vLLM's own prefill of the prompts that count, after those of the first unit."""
    prepared = prepare(capture_config(quick, Path("lake")))
    first, *others = (unit for unit in prepared.plan(lambda doc_ids: set()) if unit.documents)
    prompts = [[s.input_ids.tolist() for unit in units for s in sequences_of(unit)] for units in ([first], others)]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "prompts.json"
        path.write_text(json.dumps(prompts), encoding="utf-8")
        command = [
            vllm_python(),
            "-P",
            str(_PREFILL),
            str(prepared.files.directory),
            resolve_dtype("auto", "auto"),
            path,
        ]
        environment = {**os.environ, **_CPU, "VLLM_NO_USAGE_STATS": "1"}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    answer: Measurements = json.loads(done.stdout.splitlines()[-1])
    return answer


def _arms(quick: bool) -> Mapping[str, Arm]:
    return {
        "logitlake, vllm": Arm(partial(measure_vllm, quick)),
        "vLLM's prefill": Arm(partial(measure_prefill, quick)),
        "logitlake, transformers": Arm(partial(measure_capture, quick)),
    }


def summarise(runs: Runs, quick: bool) -> Summary:
    """Speeds, and the share of vLLM's prefill."""
    return Summary(
        figures={
            "vs_prefill": runs.ratio("tokens_per_s", "logitlake, vllm", "vLLM's prefill"),
            "vs_transformers": runs.ratio("tokens_per_s", "logitlake, vllm", "logitlake, transformers"),
        },
        tables=[speed_table("A capture by vLLM from plan to committed shard", runs)],
        plot=partial(plot_speed, runs),
        notes=[],
    )


BENCHMARK = Benchmark(
    name="engines",
    title="Capture by vLLM against vLLM's own prefill",
    arms=_arms,
    summarise=summarise,
    reach=(Reach("vs_prefill", "at least", 0.95),),
    rounds=3,
    quick_rounds=2,
)

if __name__ == "__main__":
    run(BENCHMARK)
