"""Compare the speed of decoding with other engines on the same weights: python -m scripts.benchmark.decode

Engines, each in its own process, taking turns:
  ours                 research.decode.search
  transformers         generate of the PyTorch model
  ctranslate2 ...      its translator, in float32 and with int8 weights
All but CTranslate2 compute in float32, or as --compute says.
Models have published shapes and random weights, written as Hugging Face directories that all engines read. All rows
have the same number of input tokens and the same number of output tokens: EOS is forbidden before the last. With
--random nothing is written or compared: each engine draws weights of its own, which saves minutes for large models.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from research.config import ConfigError, FanIn, Generation, LayerNorm, Model, Sinusoidal, override, require
from research.model.family import preset
from research.model.flops import decode_flops
from research.model.transformer import Params, initial_params
from research.parallel.hardware import PEAK_FLOPS
from research.storage import run_directory
from research.storage.files import write_json
from scripts import command_line
from scripts.benchmark.engines import ENGINES, EXACT, WRITTEN, WeightSource, missing, work
from scripts.benchmark.rounds import cell, hardware, ratios, receive, spread

EPILOG = """
reading the table
  Tokens are those of the best hypothesis of every row; tokens/s is the median over the rounds, with the slowest and the
  fastest in brackets. "ours / theirs" is the median over the rounds of the ratio within a round, and so is "x greedy",
  the speed of beam search relative to greedy decoding. GFLOP/s count every product that decoding needs
  (research/model/flops.py: decode_flops); MFU is beside them if the device's peak is known. Other work on the machine
  shows in the spread and in the load averages: read the ratios, and repeat odd results.

what is checked
  Before a case is timed, every engine decodes it once. In float32 all engines must give equal tokens when greedy,
  and rows must differ from each other and have many different tokens; otherwise nothing is measured. "as ours" is the
  share of equal tokens.

peers
  An engine that is not installed (python -m pip install torch transformers ctranslate2) is left out, with a
  note below the table. CTranslate2's models are converted from the same directories, with numerals as vocabulary.

examples
  python -m scripts.benchmark.decode --out experiments/results/decode_cpu.json
  python -m scripts.benchmark.decode --models t5_v1_1/small --batch_sizes 16 --beams 1 --engines ours transformers
  python -m scripts.benchmark.decode --models bart/large --batch_sizes 128 --beams 1 --input_length 350 \
      --output_length 87 --engines transformers --compute bfloat16 --random
"""
SEED = 0


def main(arguments: list[str] | None = None) -> int:
    console = Console(width=None if sys.stdout.isatty() else 130)
    try:
        options = parse(arguments)
        for name in ("rounds", "input_length", "output_length", "threads"):
            require(getattr(options, name) > 0, f"--{name} is {getattr(options, name)}: it must be above 0.")
        for name in ("batch_sizes", "beams"):
            require(min(getattr(options, name)) > 0, f"--{name} has {min(getattr(options, name))}: all above 0.")
        folder = (options.out or Path("-")).absolute().parent
        require(folder.is_dir(), f"--out {options.out}: there is no directory {folder}.")
        result = benchmark(options, console)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(result, console)
    if options.out:
        write_json(options.out, result)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the options; `changes` are those of the models' fields, as text."""
    parser = command_line.parser("benchmark.decode", __doc__, EPILOG)
    add = parser.add_argument
    add("--models", nargs="+", default=["t5_v1_1/small", "marian/base"], help="presets (default: %(default)s)")
    add(
        "--engines",
        nargs="+",
        choices=ENGINES,
        default=list(ENGINES),
        help="engines in addition to ours (default: all)",
    )
    add("--batch_sizes", nargs="+", type=int, default=[1, 16], help="rows at once (default: %(default)s)")
    add("--beams", nargs="+", type=int, default=[1, 4], help="1 is greedy (default: %(default)s)")
    add("--input_length", type=int, default=128, help="tokens a row (default: %(default)s)")
    add("--output_length", type=int, default=64, help="tokens a row (default: %(default)s)")
    add(
        "--rounds",
        type=int,
        default=5,
        help="rounds, each with every engine (default: %(default)s)",
    )
    add("--random", action="store_true", help="each engine draws its own weights on its device; nothing is compared")
    add("--compute", choices=("float32", "bfloat16"), default="float32", help="dtype (default: %(default)s)")
    add("--threads", type=int, default=2, help="cores of each engine, on a CPU (default: %(default)s)")
    add("--out", type=Path, metavar="PATH", help="keep every round, with hardware, versions and commit")
    parser.add_argument_group("--model.FIELD=VALUE", "any field of the models, such as --model.encoder_layers=2")
    given = sys.argv[1:] if arguments is None else arguments
    options, (changes,) = command_line.parse(parser, given, (command_line.MODEL,))
    options.changes = changes
    return options


# --- Models -----------------------------------------------------------------------------------------------------------


def model_of(name: str, changes: dict[str, str] | None = None) -> tuple[Model, Generation]:
    """Return a preset with some fields changed, in Hugging Face's form, and its start and end tokens."""
    model = replace(override.apply(preset(name), changes or {}), compute="float32", initial=FanIn())
    if model.zero_token is None:
        return model, Generation()
    model = replace(model, norm=LayerNorm(1e-5), positions=Sinusoidal(512))
    start = model.vocab_size
    return model, Generation(start_token=start, eos_token=0, pad_token=start, banned=())


def source_of(name: str, folder: Path, options: argparse.Namespace) -> WeightSource:
    model, generation = model_of(name, options.changes)
    if options.random:
        require(model.zero_token is None, f"--random does not serve {name}, whose start token has a row of zeros.")
        return WeightSource(model, generation, None)
    from research.pretrained import huggingface  # it needs libraries of tokenizers

    directory = folder / name.replace("/", "-")
    params = jax.jit(initial_params, static_argnums=0)(model, jax.random.key(SEED))
    huggingface.write(directory, model, lively(model, params), generation)
    return WeightSource(model, generation, directory)


# Factors of matrices in a post-norm model with a tied head, which would otherwise repeat one token endlessly. With them
# the layers can change the small input, and the feed-forward, which separates tokens, outweighs attention.
LIVELY = {"query": 8.0, "output": 0.5, "down": 3.0}


def lively(model: Model, params: Params) -> Params:
    """Scale random weights so that the next token depends on the tokens before it and on the inputs of the row.

    T5 needs no scaling. Larger factors would make decoding chaotic, so that rounding would decide its tokens.
    """
    if model.norm_first:
        return params
    stacks = {stack: jax.tree_util.tree_map_with_path(_enlivened, params[stack]) for stack in ("encoder", "decoder")}
    for down in (stack["layers"]["feed_forward"]["down"] for stack in stacks.values()):
        down["bias"] = -((2 * np.pi) ** -0.5) * down["weight"].sum(axis=1)  # cancels the mean of ReLU
    return {**params, **stacks, "embedding": params["embedding"] * 2 * model.width**-0.5}


def _enlivened(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    return leaf * LIVELY.get(path[-2:][0].key, 1.0)


def input_tokens(model: Model, rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(rows).integers(3, model.vocab_size, (rows, length))


# --- Measuring --------------------------------------------------------------------------------------------------------


def benchmark(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    left_out = {name: f"{', '.join(missing(name))} not installed" for name in options.engines if missing(name)}
    left_out |= {name: "it needs written weights" for name in options.engines if options.random and name in WRITTEN}
    names = [name for name in ENGINES if name == "ours" or (name in options.engines and name not in left_out)]
    with tempfile.TemporaryDirectory() as folder:
        sources = {name: source_of(name, Path(folder), options) for name in options.models}
        pipes = {name: start(name, sources, options) for name in names}
        about = {name: receive(pipe, name) for name, pipe in pipes.items()}
        cases = [measure(model, sources[model].model, rows, options, pipes, console)
                 for model in options.models for rows in options.batch_sizes]  # fmt: skip
        for pipe in pipes.values():
            pipe.close()
    environment = run_directory.environment()
    environment.pop("host")
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "engines")}
    return {
        "environment": environment,
        "hardware": hardware(),
        "settings": settings,
        "engines": about,
        "left out": left_out,
        "cases": [case for several in cases for case in several],
    }


def start(engine: str, sources: dict[str, WeightSource], options: argparse.Namespace) -> Connection:
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # read by the libraries when they are loaded
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, engine, sources, options.output_length, options.threads, options.compute)
    context.Process(target=work, args=arguments, daemon=True).start()
    theirs.close()  # otherwise recv() would not end if the process dies
    return ours


def measure(
    name: str, model: Model, rows: int, options: argparse.Namespace, pipes: dict[str, Connection], console: Console
) -> list[dict[str, Any]]:
    """Measure a model and a batch with every number of beams: check the tokens, then time the engines in turns."""
    tokens = input_tokens(model, rows, options.input_length)
    decoded = {beams: {engine: ask(pipe, engine, name, tokens, beams)[1] for engine, pipe in pipes.items()}
             for beams in options.beams}  # fmt: skip
    what, exact = f"{name}, {rows} rows", options.compute == "float32"
    agreement = {beams: {} if options.random else check(decoded[beams], beams, what, exact) for beams in options.beams}
    seconds: dict[int, dict[str, list[float]]] = {beams: {engine: [] for engine in pipes} for beams in options.beams}
    loads = []
    for number in range(options.rounds):
        loads.append(os.getloadavg()[0])
        console.print(f"{name}, {rows} rows, round {number + 1}: load average {loads[-1]:.1f}, {os.cpu_count()} cores")
        for beams in options.beams:
            for engine, pipe in pipes.items():
                seconds[beams][engine].append(ask(pipe, engine, name, tokens, beams)[0])
    return [
        {
            "model": name,
            "rows": rows,
            "beams": beams,
            "flops": rows * decode_flops(model, options.input_length, options.output_length, beams),
            "distinct tokens": len(np.unique(decoded[beams]["ours"])),
            "tokens as ours": agreement[beams],
            "seconds": seconds[beams],
            "load averages": loads,
            "summary": summary(seconds, beams, rows * options.output_length),
        }
        for beams in options.beams
    ]


def ask(pipe: Connection, engine: str, model: str, tokens: np.ndarray, beams: int) -> tuple[float, np.ndarray]:
    pipe.send((model, tokens, beams))
    seconds, decoded = receive(pipe, engine)
    return seconds, decoded


def check(decoded: dict[str, np.ndarray], beams: int, what: str, exact: bool = True) -> dict[str, float]:
    """Compute the share of each engine's tokens that equal ours.

    Raises ConfigError if ours are degenerate, or with `exact` if a float32 engine has other greedy tokens.
    """
    ours = decoded["ours"]
    several = len(np.unique(ours)) > ours.shape[1] // 4 and len(np.unique(ours, axis=0)) == len(ours)
    require(several, f"{what}: the outputs hardly depend on the inputs, so nothing can be measured: use other weights.")
    for engine, tokens in decoded.items():
        require(tokens.shape == ours.shape, f"{what}: {engine} gives {tokens.shape} tokens, ours {ours.shape}.")
        equal = not exact or beams > 1 or engine not in EXACT or np.array_equal(tokens, ours)
        require(equal, f"{what}: {engine} gives other greedy tokens than ours, so speeds cannot be compared.")
    return {engine: float(np.mean(tokens == ours)) for engine, tokens in decoded.items()}


def summary(seconds: dict[int, dict[str, list[float]]], beams: int, tokens: int) -> dict[str, dict[str, list[float]]]:
    """Return {engine: {measure: [median, lowest, highest]}}. Ratios are computed within a round."""
    result = {}
    for engine, rounds in seconds[beams].items():
        result[engine] = {"tokens/s": spread([tokens / each for each in rounds])}
        if engine != "ours":
            result[engine]["ours / theirs"] = spread(ratios(rounds, seconds[beams]["ours"]))
        if beams > 1 and 1 in seconds:
            result[engine]["x greedy"] = spread(ratios(rounds, seconds[1][engine]))
    return result


# --- Reporting --------------------------------------------------------------------------------------------------------


def print_table(result: dict[str, Any], console: Console) -> None:
    settings, machine = result["settings"], result["hardware"]
    title = f"{settings['input_length']} tokens in, {settings['output_length']} out, {settings['compute']}"
    title += f"; {settings['threads']} threads"
    table = Table("model", "rows", "beams", "engine", title=f"{title} of {machine['cpu']}")
    for heading in ("tokens/s", "ours / theirs", "x greedy", "GFLOP/s", "as ours"):
        table.add_column(heading, justify="right")
    for case in result["cases"]:
        for engine, measures in case["summary"].items():
            rate = case["flops"] / statistics.median(case["seconds"][engine])
            peak = PEAK_FLOPS.get(result["engines"][engine]["device"])
            flops = f"{rate / 1e9:,.0f}" + (f" ({rate / peak:.1%} MFU)" if peak else "")
            figures = [cell(measures.get(heading), digits)
                       for heading, digits in (("tokens/s", 0), ("ours / theirs", 2), ("x greedy", 2))]  # fmt: skip
            shared = f"{case['tokens as ours'][engine]:.0%}" if case["tokens as ours"] else ""
            table.add_row(case["model"], str(case["rows"]), str(case["beams"]), engine, *figures, flops, shared)
        table.add_section()
    console.print(table)
    for engine, reason in result["left out"].items():
        console.print(f"{engine} is left out: {reason}")
    for engine, about in result["engines"].items():
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        console.print(f"{engine}: {versions}, on {about['device']}")
    loads = [load for case in result["cases"] for load in case["load averages"]]
    console.print(f"load average before a round, on {machine['cores']} cores: {min(loads):.1f} - {max(loads):.1f}")
    console.print(f"commit {result['environment']['commit']}")


if __name__ == "__main__":
    sys.exit(main())
