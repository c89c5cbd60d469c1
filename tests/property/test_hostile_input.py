"""Input made to do harm ends in rejects, answers or errors of ours, in bounded memory and time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_MIB = 1024
SECONDS_TO_END = 1800


# 10,000 slow cases in four parts, so that two processes share them.
@pytest.mark.parametrize(
    ("cases", "seed"), [(80, 0), *(pytest.param(2_500, seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))]
)
def test_hostile_input_is_rejected_or_refused_in_bounded_memory(cases: int, seed: int) -> None:
    call = [sys.executable, "-m", "tests.hostile_input", "--cases", str(cases), "--seed", str(seed)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS_TO_END)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["cases"], summary["findings"]) == (cases, 0)
    # Cases of each kind were read, not refused at the first byte. Of catalogs there are few.
    assert summary["accepted"].pop("catalog_case") >= cases // 1000, summary
    assert min(summary["accepted"].values()) > cases // 100, summary
    assert summary["grown_mib"] < MOST_MIB
