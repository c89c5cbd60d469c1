import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from accelerate import Accelerator

from logitlake.pipeline.training.long_wait import long_wait

RANK = """
import os
import time
from datetime import timedelta
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from logitlake.pipeline.training.long_wait import long_wait

kwargs = InitProcessGroupKwargs(backend="gloo", timeout=timedelta(seconds=3))
accelerator = Accelerator(cpu=True, kwargs_handlers=[kwargs])
wait = long_wait(accelerator)
if accelerator.process_index == 0:
    time.sleep(8)
wait()
# One write: two processes share the output.
os.write(1, f"together {accelerator.process_index}\\n".encode())
dist.destroy_process_group()
"""


def test_one_process_waits_for_nobody():
    assert not dist.is_initialized()
    long_wait(Accelerator(cpu=True))()


@pytest.mark.slow
def test_ranks_wait_longer_for_the_first_one_than_a_barrier_of_the_training_would(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(launch, cwd=Path(__file__).parents[4], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(line for line in done.stdout.splitlines() if "together" in line) == ["together 0", "together 1"]
