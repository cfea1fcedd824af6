"""Compile fixed training steps and decoding for accelerators that are not here, and hold them against budgets.

Each program is compiled in its own process by scripts.plan --compile. Traffic, kernels and temporaries are read from
the compiled program, and its time is modelled (research/plan/time_model.py): nothing is measured. Of decoding, traffic,
kernels and time are those of one step of the loop over the longest cache. The budgets are in
experiments/results/compiled_budgets.json, with the versions that they hold for.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from research.config import DROPOUTS, ConfigError, require
from research.config.base import closest
from research.storage import run_directory
from research.storage.files import write_json
from scripts import command_line

ROOT = Path(__file__).resolve().parents[2]
BUDGETS = ROOT / "experiments/results/compiled_budgets.json"
TOLERANCE = 0.03  # by which a figure may exceed its budget
PACKAGES = ("jax", "jax-cuda12-pjrt", "libtpu", "flax", "optax")
OVER, NOT_COMPILED = 1, 3  # exit codes

EPILOG = """
exit codes
  0  every figure is within 3 % of its budget
  1  a figure is over its budget, or a program that has one does not compile; a line for each
  2  bad input
  3  all compiled programs are within their budgets, but a compiler is missing (kintsugi[gpu-compile], kintsugi[tpu])

examples
  python -m scripts.benchmark.compiled
  python -m scripts.benchmark.compiled --only base_h200 --json base.json
  python -m scripts.benchmark.compiled --only base_h200 large_h200 --update
"""


class Program(NamedTuple):
    """A training step to compile, or decoding: the arguments of scripts.plan."""

    experiment: str
    hardware: str
    overrides: dict[str, str]
    generation: dict[str, str] | None = None  # overrides of decoding; None: a training step


C4, H200 = "experiments/t5/v1_1_c4.py", "1xH200"
PACKED = 'Supervised(tasks=(QuestionAnswering(examples=TFDSExamples("squad")),), tokenizer=SentencePiece("unread"),'
PACKED += " input_length=512, target_length=114)"
FINE_TUNING = {"batch_size": "128", "data": PACKED} | {f"model.{name}": "0.1" for name in DROPOUTS}
BART_LARGE, GREEDY = "experiments/bart/bart.py:large", {"max_length": "128"}
BART_GREEDY = GREEDY | {"start_token": "2", "eos_token": "2", "pad_token": "1"}
PROGRAMS = {
    "small_h200": Program(f"{C4}:small", H200, {"batch_size": "256"}),
    "base_h200": Program(f"{C4}:base", H200, {"batch_size": "128"}),
    "large_h200": Program(f"{C4}:large", H200, {"batch_size": "64"}),
    "base_packed_h200": Program(f"{C4}:base", H200, FINE_TUNING),
    "base_packed_pallas_h200": Program(f"{C4}:base", H200, FINE_TUNING | {"model.attention": "pallas"}),
    "bart_large_h200": Program(BART_LARGE, H200, {"batch_size": "32"}),
    "mbart_large_h200": Program("experiments/mbart/cc25.py", H200, {"batch_size": "16"}),
    "base_greedy_h200": Program(f"{C4}:base", H200, {"batch_size": "128"}, GREEDY),
    "xl_greedy_h200": Program(f"{C4}:xl", H200, {"batch_size": "128", "mesh.fsdp": "1"}, GREEDY),  # Flan-T5-XL
    "bart_greedy_h200": Program(BART_LARGE, H200, {"batch_size": "128"}, BART_GREEDY),  # BART-large-CNN
    "bart_beam_h200": Program(BART_LARGE, H200, {"batch_size": "128"}, BART_GREEDY | {"method": "Beam(4)"}),
    "base_v5e": Program(f"{C4}:base", "v5e:1x1", {"batch_size": "32"}),
    "base_v6e": Program(f"{C4}:base", "v6e:1x1", {"batch_size": "32"}),
}


class Result(NamedTuple):
    """The figures of a compiled program, or the sentence that says why there are none."""

    figures: dict[str, Any] | None
    message: str = ""
    missing: bool = False  # the compiler is not installed


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("benchmark.compiled", __doc__, EPILOG)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"some of {', '.join(PROGRAMS)}")
    parser.add_argument("--json", type=Path, help="write all figures, by part too, into this file")
    parser.add_argument("--update", action="store_true", help="make the figures of these programs their budgets")
    return command_line.run(parser, run, arguments)


def run(options: Any) -> int:
    names = options.only or list(PROGRAMS)
    for name in names:
        like = closest(name, PROGRAMS)
        hint = f"; did you mean {like}?" if like else f": there are {', '.join(PROGRAMS)}."
        require(name in PROGRAMS, f"--only {name} is not a program{hint}")
    folder = (options.json or Path("-")).absolute().parent
    require(folder.is_dir(), f"--json {options.json}: there is no directory {folder}.")
    budgets = json.loads(BUDGETS.read_text())["programs"] if BUDGETS.exists() else {}
    print(HEADER, flush=True)
    made, results = described(), {}
    for name in names:
        results[name] = compiled(PROGRAMS[name])
        print(line(name, results[name]), flush=True)
    if options.json:
        write_json(options.json, made | {"programs": {name: each._asdict() for name, each in results.items()}})
    if options.update:
        changed = {name: budget_of(name, each) for name, each in results.items() if not each.missing}
        write_json(BUDGETS, made | {"programs": dict(sorted((budgets | changed).items()))})
        return NOT_COMPILED if any(each.missing for each in results.values()) else 0
    return judge(results, budgets)


def compiled(program: Program) -> Result:
    """Compile a program in another process."""
    try:
        check_compiler(program.hardware)
    except ConfigError as error:
        return Result(None, str(error), missing=True)
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "figures.json"
        command = [sys.executable, "-m", "scripts.plan", program.experiment, "--hardware", program.hardware]
        command += ["--compile", "--json", str(path)]
        command += [f"--config.{name}={value}" for name, value in program.overrides.items()]
        if program.generation is not None:
            command += ["--decode", *(f"--generation.{name}={value}" for name, value in program.generation.items())]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            return Result(json.loads(path.read_text()))
    lines = [text for text in done.stderr.splitlines() if text.strip()]
    return Result(None, next((text for text in lines if text.startswith("error: ")), lines[-1]).removeprefix("error: "))


def check_compiler(hardware: str) -> None:
    from research.parallel.hardware import find  # importing JAX takes seconds, which would delay --help
    from research.plan import targets

    targets.check_compiler(find(hardware))


# --- Budgets ----------------------------------------------------------------------------------------------------------

BUDGETED = ("traffic", "kernels", "temporaries", "seconds")


def measures(figures: dict[str, Any]) -> dict[str, float]:
    """Return the figures that have budgets: bytes of traffic and temporaries, kernels, and modelled seconds."""
    return {
        "traffic": figures["traffic"],
        "kernels": figures["kernels"],
        "temporaries": figures["memory"]["temporaries"],
        "seconds": figures["modelled"]["seconds"],
    }


def budget_of(name: str, result: Result) -> dict[str, Any]:
    """Return a program's entry in the file of budgets; `figures` is None if it does not compile."""
    found = result.figures
    shown = None if found is None else measures(found) | {"mfu": found["modelled"]["mfu"], "cycles": found["cycles"]}
    return {**PROGRAMS[name]._asdict(), "figures": shown, "message": result.message}


def judge(results: dict[str, Result], budgets: dict[str, Any]) -> int:
    """Print a line for each broken budget, and return the exit code."""
    broken = [line for name, result in results.items() for line in broken_budgets(name, result, budgets)]
    print("\n".join(broken))
    if broken:
        return OVER
    return NOT_COMPILED if any(result.missing for result in results.values()) else 0


def broken_budgets(name: str, result: Result, budgets: dict[str, Any]) -> list[str]:
    """List the budgets of a program that its figures break, each as a sentence."""
    if result.missing:
        return []
    budget = budgets.get(name, {}).get("figures")
    if result.figures is None:
        known = name in budgets and budget is None  # it did not compile when the budgets were made
        return [] if known else [f"{name} does not compile: {result.message}"]
    if budget is None:
        return [f"{name} has no budget: run --only {name} --update."]
    found = measures(result.figures)
    return [
        f"{name}: {kind} is {found[kind]:,.6g}, {found[kind] / budget[kind] - 1:.1%} over its {budget[kind]:,.6g}."
        for kind in BUDGETED
        if found[kind] > (1 + TOLERANCE) * budget[kind]
    ]


# --- Reporting --------------------------------------------------------------------------------------------------------


def described() -> dict[str, Any]:
    """Return what the figures were made with."""
    versions = dict.fromkeys(PACKAGES, "not installed") | run_directory.installed(PACKAGES)
    return {"command": run_directory.command(), "commit": run_directory.commit(), "versions": versions}


HEADER = (
    f"{'program':<18} {'hardware':<8} {'traffic':>10} {'kernels':>8} {'temporaries':>12} {'modelled':>10} {'MFU':>6}"
)


def line(name: str, result: Result) -> str:
    start = f"{name:<18} {PROGRAMS[name].hardware:<8}"
    if result.figures is None:
        return f"{start} {result.message}"
    found, mfu = measures(result.figures), result.figures["modelled"]["mfu"]
    decoding = result.figures.get("decoding")
    return (
        f"{start} {found['traffic'] / 1e9:>7,.1f} GB {found['kernels']:>8,} {found['temporaries'] / 2**30:>8.2f} GiB"
        f" {found['seconds'] * 1e3:>7.1f} ms {mfu:>6.1%}"
        + (
            ""
            if decoding is None
            else f"  {decoding['times_least']:.2f} x the least bytes,"
            f" {decoding['tokens_per_second']:,.0f} tokens/s, copies {len(decoding['copies'])}"
        )
        + ("" if result.figures["memory"]["fits"] else "  does not fit JAX's default share of the memory")
    )


if __name__ == "__main__":
    sys.exit(main())
