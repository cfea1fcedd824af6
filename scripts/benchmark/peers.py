"""Compare the speed of a training step with PyTorch's, on the same device: python -m scripts.benchmark.peers

Engines, each in its own process, taking turns on batches of one shape:
  ours                   research.train.step with AdamW
  transformers           Hugging Face's T5 with its fastest attention, AdamW
  transformers compiled  the same under torch.compile
  nanoT5's recipe        Hugging Face's T5 with plain attention under torch.compile, AdamW scaled by the RMS of the
                         parameters, gradients clipped to norm 1
PyTorch keeps its parameters in float32 and computes under autocast. All heads are untied, as in T5 v1.1. A PyTorch step
that does not fit the memory that ours leaves is made of as many micro-batches as it needs.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, Experiment, Generation, override, require
from research.storage import run_directory
from research.storage.files import write_json
from scripts import command_line
from scripts.benchmark import train
from scripts.benchmark.engines import torch_model
from scripts.benchmark.rounds import cell, hardware, ratios, spread

EPILOG = """
reading the table
  ms a step are medians over the rounds, with the fastest and the slowest in brackets. "ours / theirs" is the median of
  the ratio of speeds within a round: above 1, ours is faster. PyTorch's memory is given back after every turn, since
  one device holds all engines; one step before the clock starts takes it again.

peers
  An engine that is not installed is left out. One that fails, or does not answer within --patience seconds, is named
  with the reason below the table; the others continue.

examples
  python -m scripts.benchmark.peers --preset t5_v1_1/base --batch_size 128
  python -m scripts.benchmark.peers --preset t5_v1_1/small --batch_size 8 --input_length 128 --target_length 32 \\
      --steps 1 --warmup 1 --config.model.compute=float32
"""


class Runner(NamedTuple):
    """An opened engine. `run` takes so many steps and returns the seconds of one."""

    run: Callable[[int], float]
    memory: Callable[[], tuple[int | None, int]]  # peak in bytes, and micro-batches of a step
    device: str
    parameters: int
    attention: str


class Turn(NamedTuple):
    """The answer of an engine."""

    seconds: float
    peak_bytes: int | None
    microbatches: int


def main(arguments: list[str] | None = None) -> int:
    options, rest = parser().parse_known_args(arguments)
    try:
        folder = (options.json or Path("-")).absolute().parent
        require(folder.is_dir(), f"--json {options.json}: there is no directory {folder}.")
        result = benchmark(options, rest, lambda found: None)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(f"{name:<40} {value}" for name, value in rows(result)))
    if options.json:
        write_json(options.json, result)
    return 0


def parser() -> argparse.ArgumentParser:
    made = command_line.parser("benchmark.peers", __doc__, EPILOG)
    train.add_step_options(made)
    made.set_defaults(preset="t5_v1_1/base", batch_size=128, mesh="data=1", optimizer="adamw")
    made.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="engines beside ours (all)")
    made.add_argument("--torch_backend", default="inductor", help="of torch.compile (%(default)s)")
    made.add_argument("--patience", type=float, default=300, help="seconds until an answer is due (%(default)s)")
    return made


# --- Engines, each in its own process ---------------------------------------------------------------------------------


def open_ours(experiment: Experiment, options: argparse.Namespace) -> Runner:
    from research.model.flops import parameter_count

    step = train.compiled_step(experiment, options.target_length)
    state = step.new_state()

    def run(steps: int) -> float:
        nonlocal state
        state, _ = step.run(state, 1)
        state, seconds = step.run(state, steps)
        return seconds

    def memory() -> tuple[int | None, int]:
        return train.memory(step.program, step.mesh)["peak_bytes"], experiment.microbatches

    device = step.mesh.devices.flat[0].device_kind
    return Runner(run, memory, device, parameter_count(state.params), step.attention)


def open_torch(
    experiment: Experiment, options: argparse.Namespace, attention: tuple[str, ...], compiled: bool, recipe: bool
) -> Runner:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_float32_matmul_precision("high")
    torch.set_flush_denormal(True)  # as XLA does: with denormals a CPU's step can take three times as long
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = TorchStep(torch_model_with(experiment, device, attention), experiment, options, compiled, recipe)
    count = sum(parameter.numel() for parameter in step.parameters)
    name = torch.cuda.get_device_name() if step.cuda else "cpu"
    return Runner(step.run, step.memory, name, count, step.model.config._attn_implementation)


class TorchStep:
    """A PyTorch model's training step on one batch, in mixed precision, with one of two optimizers."""

    def __init__(
        self, model: Any, experiment: Experiment, options: argparse.Namespace, compiled: bool, recipe: bool
    ) -> None:
        import torch

        self.model, self.recipe, self.parts = model, recipe, 1
        self.cuda = model.device.type == "cuda"
        self.call = torch.compile(model, backend=options.torch_backend) if compiled else model
        batch = train.synthetic_batch(experiment, options.target_length)
        self.inputs, self.targets = (torch.tensor(each, dtype=torch.long, device=model.device) for each in batch[:2])
        self.parameters = list(model.parameters())
        fused = torch.optim.AdamW(self.parameters, lr=1e-4, fused=self.cuda)
        self.update = rms_scaled_adamw(self.parameters) if recipe else fused.step
        self.mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=experiment.model.compute == "bfloat16")

    def differentiate(self) -> Any:
        """Compute the gradients, in twice as many micro-batches as before if they do not fit, and return the loss."""
        import torch

        try:
            for inputs, targets in zip(self.inputs.chunk(self.parts), self.targets.chunk(self.parts), strict=True):
                with self.mixed:
                    loss = self.call(input_ids=inputs, decoder_input_ids=targets, labels=targets).loss
                (loss / self.parts).backward()
            return loss
        except torch.cuda.OutOfMemoryError:
            if self.parts == len(self.inputs):
                raise
        self.parts *= 2  # outside of the handler, whose traceback would keep the activations
        self.model.zero_grad()
        torch.cuda.empty_cache()
        return self.differentiate()

    def advance(self) -> Any:
        import torch

        loss = self.differentiate()
        if self.recipe:
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.update()
        self.model.zero_grad()
        return loss

    def run(self, steps: int) -> float:
        import torch

        self.advance()
        if self.cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            loss = self.advance()
        if self.cuda:
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - began) / steps
        require(bool(torch.isfinite(loss)), "The last step's loss is not finite.")
        if self.cuda:
            torch.cuda.empty_cache()
        return seconds

    def memory(self) -> tuple[int | None, int]:
        import torch

        return torch.cuda.max_memory_allocated() if self.cuda else None, self.parts


def torch_model_with(experiment: Experiment, device: Any, attention: tuple[str, ...]) -> Any:
    """Build Hugging Face's model with the first of these attentions that this release has for its family."""
    for name in attention[:-1]:
        with contextlib.suppress(ValueError), device:
            return torch_model(experiment.model, Generation(), attn_implementation=name).train()
    with device:
        return torch_model(experiment.model, Generation(), attn_implementation=attention[-1]).train()


def rms_scaled_adamw(parameters: list[Any], rate: float = 1e-3) -> Callable[[], None]:
    """Make nanoT5's AdamWScale, whose steps are scaled by max(1e-3, RMS(parameter)), with operations over lists."""
    import torch

    b1, b2, epsilon, count = 0.9, 0.999, 1e-6, 0
    first, second = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
    roots = [parameter.numel() ** 0.5 for parameter in parameters]

    @torch.no_grad()
    def step() -> None:
        nonlocal count
        count += 1
        gradients = [parameter.grad for parameter in parameters]
        torch._foreach_lerp_(first, gradients, 1 - b1)
        torch._foreach_mul_(second, b2)
        torch._foreach_addcmul_(second, gradients, gradients, value=1 - b2)
        denominators = torch._foreach_sqrt(second)
        torch._foreach_add_(denominators, epsilon)
        updates = torch._foreach_div(first, denominators)
        scales = torch._foreach_div(torch._foreach_norm(parameters), roots)
        torch._foreach_clamp_min_(scales, 1e-3)
        torch._foreach_mul_(scales, -rate * (1 - b2**count) ** 0.5 / (1 - b1**count))
        torch._foreach_mul_(updates, scales)
        torch._foreach_add_(parameters, updates)

    return step


TORCH = ("torch", "transformers")
ENGINES: dict[str, tuple[tuple[str, ...], Callable[..., Runner]]] = {
    "ours": (("jax", "jaxlib"), open_ours),
    "transformers": (TORCH, partial(open_torch, attention=("sdpa", "eager"), compiled=False, recipe=False)),
    "transformers compiled": (TORCH, partial(open_torch, attention=("sdpa", "eager"), compiled=True, recipe=False)),
    "nanoT5's recipe": (TORCH, partial(open_torch, attention=("eager",), compiled=True, recipe=True)),
}


def work(pipe: Connection, engine: str, experiment: Experiment, options: argparse.Namespace) -> None:
    """Answer numbers of steps with the values of a Turn, until the pipe is closed; an error with its sentence."""
    packages, opener = ENGINES[engine]
    try:
        versions = {name: metadata.version(name) for name in packages}
        runner = opener(experiment, options)
        about = {"device": runner.device, "parameters": runner.parameters, "attention": runner.attention}
        pipe.send({"versions": versions, **about})
        while True:
            pipe.send((runner.run(pipe.recv()), *runner.memory()))
    except EOFError:
        pass
    except Exception as error:  # of a library, a compiler or the device
        pipe.send(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")


# --- Measuring --------------------------------------------------------------------------------------------------------


class Engines:
    """The processes of the engines that work. One that fails is moved to `failed`, with the reason."""

    def __init__(self, names: list[str], experiment: Experiment, options: argparse.Namespace) -> None:
        self.patience, self.failed, self.pipes = options.patience, dict[str, str](), dict[str, Connection]()
        context = multiprocessing.get_context("spawn")
        self.processes = {}
        for name in names:
            self.pipes[name], theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, name, experiment, options), daemon=True)
            process.start()
            theirs.close()  # otherwise recv() would not end if the process dies
            self.processes[name] = process

    def receive(self, name: str) -> Any:
        """Return an engine's answer; None if it fails."""
        pipe, answer = self.pipes[name], f"no answer within {self.patience:g} s"
        if pipe.poll(self.patience):
            try:
                answer = pipe.recv()
            except EOFError:
                answer = "its process has ended; the log has its error"
        if not isinstance(answer, str):
            return answer
        self.failed[name] = answer
        self.pipes.pop(name).close()
        self.processes[name].kill()
        return None

    def ask(self, name: str, steps: int) -> Turn | None:
        self.pipes[name].send(steps)
        answer = self.receive(name)
        return answer and Turn(*answer)

    def close(self) -> None:
        for name, pipe in self.pipes.items():
            pipe.close()
            self.processes[name].join(10)


def benchmark(options: argparse.Namespace, rest: list[str], keep: Callable[[Any], None]) -> dict[str, Any]:
    """Open the engines, let each compile and take its first steps, then time them in turns."""
    experiment = train.experiment_of(options, override.from_arguments(rest))
    absent = {name: [each for each in ENGINES[name][0] if find_spec(each) is None] for name in options.engines}
    left_out = {name: f"{', '.join(packages)} not installed" for name, packages in absent.items() if packages}
    names = ["ours", *(name for name in options.engines if name != "ours" and name not in left_out)]
    engines = Engines(names, experiment, options)
    about = {name: opened for name in names if (opened := engines.receive(name))}
    first: dict[str, float] = {}
    turns: dict[str, list[Turn]] = {name: [] for name in about}
    found: dict[str, Any] = {}
    for name in about:
        began = time.perf_counter()
        if engines.ask(name, max(options.warmup, 1)):
            first[name] = time.perf_counter() - began
    for _ in range(options.rounds):
        for name in list(engines.pipes):
            turn = engines.ask(name, options.steps)
            if turn:
                turns[name].append(turn)
        found = figures(experiment, options, turns) | {"first_seconds": first, "left out": left_out}
        found |= {"failed": engines.failed, "engines": about}
        keep(found)
    engines.close()
    require("ours" in engines.pipes, f"Ours failed: {engines.failed.get('ours')}")
    environment = run_directory.environment()
    environment.pop("host")
    return found | {"environment": environment, "hardware": hardware()}


def figures(experiment: Experiment, options: argparse.Namespace, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    from research.model.flops import train_flops

    seconds = {name: [turn.seconds for turn in each] for name, each in turns.items() if each}
    complete = len(seconds.get("ours", ()))
    return {
        "preset": options.preset,
        "batch_size": options.batch_size,
        "lengths": [options.input_length, options.target_length],
        "compute": experiment.model.compute,
        "experiment": run_directory.as_data(experiment),
        "flops": options.batch_size * train_flops(experiment.model, options.input_length, options.target_length),
        "seconds": seconds,
        "peak_bytes": {name: each[-1].peak_bytes for name, each in turns.items() if each},
        "microbatches": {name: each[-1].microbatches for name, each in turns.items() if each},
        "ours / theirs": {
            name: spread(ratios(each, seconds["ours"]))
            for name, each in seconds.items()
            if name != "ours" and len(each) == complete
        },
    }


# --- Reporting --------------------------------------------------------------------------------------------------------


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Format a row for each engine."""
    from research.parallel.hardware import PEAK_FLOPS

    lines = []
    shape = f"{found['preset']}, {found['batch_size']} rows of {'/'.join(map(str, found['lengths']))}"
    for name, seconds in found["seconds"].items():
        about, room = found["engines"][name], found["peak_bytes"][name]
        text = f"{cell(spread([1e3 * each for each in seconds]), 1)} ms a step, {shape}, {found['compute']}"
        peak = PEAK_FLOPS.get(about["device"])
        text += f", {found['flops'] / statistics.median(seconds) / peak:.1%} MFU" if peak else ""
        text += f", {room / 2**30:.1f} GiB" if room else ""
        parts = found["microbatches"][name]
        text += f", in {parts} micro-batches" if parts > 1 else ""
        ratio = found["ours / theirs"].get(name)
        text += f"; ours / theirs {cell(ratio, 2)}" if ratio else ""
        versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        lines.append((name, f"{text}; attention {about['attention']}; {versions}"))
    lines += [(f"{name} is left out", reason) for name, reason in found["left out"].items()]
    return lines + [(f"{name} failed", reason) for name, reason in found["failed"].items()]


if __name__ == "__main__":
    sys.exit(main())
