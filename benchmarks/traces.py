"""Prompts → verified traces → targets → student, on the demo's teacher, by the commands of the page: `make traces`.

The prompts are small sums as chats; `exact_answer` keeps the right ones. The last line of the output is JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from logitlake.flows.demo.teacher import demo_teacher
from logitlake.flows.terminal.output import say

_SYSTEM = "Answer with the number only."


def main() -> None:
    """Run the four commands and print what each did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--directory", type=Path, default=None, help="keep the lake and the student here")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="logitlake-traces-", ignore_cleanup_errors=True) as folder:
        print(json.dumps(distilled(options.directory or Path(folder), options.prompts, options.samples)))


def distilled(home: Path, n_prompts: int, n_samples: int) -> dict[str, Any]:
    """The figures of all steps."""
    home.mkdir(parents=True, exist_ok=True)
    write_prompts(home / "sums.jsonl", n_prompts)
    (home / "logitlake.yaml").write_bytes(orjson.dumps(settings(home, n_samples)))
    figures: dict[str, Any] = {}
    wanted = {
        "generate": ("n_traces", "n_kept", "n_tokens", "tokens_per_second"),
        "capture": ("n_documents", "n_targets", "tokens_per_second"),
        "train": ("n_sequences", "before_kl", "after_kl"),
    }
    for command, names in wanted.items():
        began = time.perf_counter()
        report = _run(home, command)
        figures[command] = {name: report.get(name) for name in names} | {"seconds": time.perf_counter() - began}
        say(f"{command}: {figures[command]}")
    return figures


def write_prompts(path: Path, n_prompts: int) -> None:
    """Sums of two numbers, each with its answer."""
    lines = []
    for number in range(n_prompts):
        a, b = 1 + number % 9, 1 + 7 * number % 11 + number // 9
        messages = [
            {"role": "system", "content": _SYSTEM},
            {"role": "user", "content": f"What is {a} + {b}?"},
            {"role": "assistant", "content": str(a + b)},
        ]
        lines.append(orjson.dumps({"messages": messages}))
    path.write_bytes(b"\n".join(lines) + b"\n")


def settings(home: Path, n_samples: int) -> dict[str, Any]:
    """The settings, as YAML would give them."""
    prompts = {"name": "sums", "kind": "jsonl", "path": str(home / "sums.jsonl"), "messages_field": "messages"}
    return {
        "lake": {"path": str(home / "lake"), "held_out": {"share": 0.2}},
        "teacher": {"model": str(demo_teacher())},
        "generate": {
            "prompts": prompts,
            "samples": n_samples,
            "temperature": 0.7,
            "max_new_tokens": 32,
            "verifier": {"name": "exact_answer", "answer": "number", "only_finished": True},
        },
        "corpora": [{"name": "right", "kind": "traces"}],
        "target": {"logprob_steps_per_nat": 1024},
        "student": {"source": "teacher", "layers": 15},
        "training": {"output": str(home / "student"), "batch_sequences": 4, "learning_rate": 5e-4, "epochs": 4},
    }


def _run(home: Path, command: str) -> dict[str, Any]:
    call = [sys.executable, "-m", "logitlake", command, "--config", str(home / "logitlake.yaml"), "--format", "json"]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"logitlake {command} ended with code {done.returncode}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


if __name__ == "__main__":
    main()
