#!/usr/bin/env bash
# All that asks for an NVIDIA GPU, in one go: tests on the device, then the speed of a capture and of training.
#
#   benchmarks/on_gpu.sh [1 | 3 | 8]     billions of parameters of the teacher, whose weights are random
#
# Needs `make venv` with a torch that sees the GPU. LOGITLAKE_VLLM_PYTHON names the Python that has vLLM; without it
# there are no figures of vLLM. LOGITLAKE_BENCH_TEACHER names a real teacher in place of the random one. Results are
# printed, and written to benchmarks/results/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python

"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' ||
  { echo "on_gpu: torch in .venv sees no GPU; install the build for your driver, then run this again" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv

"$python" -m pytest tests/device

if [[ -z ${LOGITLAKE_BENCH_TEACHER:-} ]]; then
  export LOGITLAKE_BENCH_TEACHER=.cache/benchmarks/random-${1:-1}B
  [[ -f $LOGITLAKE_BENCH_TEACHER/tokenizer.json ]] ||
    "$python" -m benchmarks.random_teacher "$LOGITLAKE_BENCH_TEACHER" --billions "${1:-1}"
fi
"$python" -m benchmarks.capture
if [[ -n ${LOGITLAKE_VLLM_PYTHON:-} ]]; then "$python" -m benchmarks.engines; fi
"$python" -m benchmarks.train
