#!/usr/bin/env bash
# Measure everything that only an accelerator can tell, in at most 8 minutes: ./scripts/benchmark/accelerator.sh --out runs/h200
# Arguments go to scripts.benchmark.accelerator (--help). PYTHON=/path/to/python chooses an interpreter; otherwise it is
# that of .venv, or python3. Nothing is installed or downloaded.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-.venv/bin/python}"
if ! [ "${PYTHON:-}" ] && ! [ -x "$python" ]; then python=python3; fi
missing="$("$python" -c '
import importlib.util, sys
needed = ("jax", "flax", "optax", "jaxtyping")
print(*[name for name in needed if importlib.util.find_spec(name) is None])
print("" if sys.version_info >= (3, 11) else "Python 3.11")' | xargs)" || { echo "error: $python does not start: name another Python, PYTHON=/path/to/python." >&2; exit 2; }
if [ "$missing" ]; then echo "error: $python lacks $missing: install it, or name another Python, PYTHON=/path/to/python." >&2; exit 2; fi
# JAX takes three quarters of a GPU's memory by default. T5 large and base with dropout need more; the rest is for CUDA.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
# PyTorch's blocks then grow in place: engines that share the GPU in turns leave no fragments that the next cannot use.
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
# All weights are random; without a network, asking for files would only wait.
export HF_HUB_OFFLINE=1
export PYTHONUNBUFFERED=1 # what a phase printed before it was stopped is in the log
exec "$python" -m scripts.benchmark.accelerator "$@"
