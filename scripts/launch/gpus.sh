#!/usr/bin/env bash
# Train on one host, with one process for all its GPUs, and start the same command again if that helps.
#
#   scripts/launch/gpus.sh EXPERIMENT --run_dir DIR [--config.FIELD=VALUE ...]
#
# Paths are relative to the repository. PYTHON=... chooses another interpreter, CUDA_VISIBLE_DEVICES=0,1 some of the GPUs.
set -uo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-.venv/bin/python}"
failures_allowed=3  # hangs and crashes, after which a person should look; preemptions do not count

# Inside `srun --pty bash` JAX would take this process for one task of several, and use a single GPU.
unset SLURM_STEP_NODELIST

# Stopping this script stops the run, which saves first.
run="" stopped="" interrupted=""
pass_on() { stopped=yes interrupted=yes; if [ -n "$run" ]; then kill "-$1" "$run" 2>/dev/null; fi; }
trap 'pass_on INT' INT
trap 'pass_on TERM' TERM HUP

failures=0
while true; do
    set -m  # in its own process group the run gets a Ctrl-C once, from here
    "$python" -m scripts.train "$@" &
    run=$!
    set +m
    if [ -n "$stopped" ]; then kill -TERM "$run"; fi  # a signal came before the run had started
    interrupted=yes
    while [ -n "$interrupted" ]; do interrupted=""; wait "$run"; code=$?; done  # a signal ends a wait, not the run
    if [ "$code" -eq 43 ] || [ "$code" -eq 45 ] || [ "$code" -gt 128 ]; then
        failures=$((failures + 1))  # it hung, lost a host, or a signal ended it
    elif [ "$code" -ne 42 ]; then
        exit "$code"  # done, or the same command would end the same way
    fi
    if [ -n "$stopped" ] || [ "$failures" -gt "$failures_allowed" ]; then exit "$code"; fi
    echo "Exit code $code: starting the same command again." >&2
done
