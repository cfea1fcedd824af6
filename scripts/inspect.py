"""Show what a model attends to and predicts, as a page: kintsugi inspect RUN --example 3"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "inspect":  # scripts/ leads the path, as of a script run by its file: give way to the standard library
    sys.path[:] = [one for one in sys.path if Path(one).absolute() != Path(__file__).absolute().parent]
    del sys.modules["inspect"]
    import inspect  # noqa: F401
else:
    from research.config import ConfigError, Denoising, Experiment, Supervised, require, tasks_in
    from scripts import command_line

EPILOG = """
what is shown
  The tokens of one example, with sentinels and special tokens marked; for each target token its probability, its rank
  and the most probable tokens; the weights of every head of the encoder, of the decoder, and from the decoder to the
  encoder, with what each position reads most. All of it is computed with the true target tokens before each position.

which example
  --example 3            of the held-out examples of a run, as its page and evaluate number them; --split test: others
  --text "..."           a text of your own, corrupted by the objective of a run that denoises (the first of several)
  --source --target      texts of your own, for any model; without --target the model's own output

models
  A run directory, its newest checkpoint (or runs/NAME/checkpoints/STEP or /best), a Hugging Face directory, a T5X
  checkpoint, Marian's .npz, fairseq's .pt. T5X and fairseq need --tokenizer; Marian's vocabularies lie beside its .npz.

what is written
  OUT.html, one file that opens from disk and needs no network; the table of probabilities as OUT.md, OUT.csv and
  OUT.tex. OUT is RUN/SPLIT-example-N for an example of a run; texts of your own need --out.

examples
  kintsugi inspect runs/quickstart --example 3
  kintsugi inspect runs/quickstart --text "def main(arguments: list[str]) -> int:" --out runs/quickstart/mine
  kintsugi inspect t5-small --source "translate English to German: How are you?" --target "Wie geht es dir?" --out how
"""


def main(arguments: list[str] | None = None) -> int:
    return command_line.run(parser(), write, arguments)


def parser() -> argparse.ArgumentParser:
    made = command_line.parser("inspect", __doc__, EPILOG)
    from scripts.generate import add_language_options, add_model_options

    add_model_options(made)
    add_language_options(made)
    made.add_argument("--example", type=int, help="number of an example, from 1")
    made.add_argument("--split", choices=("train", "held_out", "test"), default="held_out", help="(%(default)s)")
    made.add_argument("--text", help="a text for the objective of a run")
    made.add_argument("--source", help="a text for the encoder; <extra_id_0> ... are sentinels in T5's vocabularies")
    made.add_argument("--target", help="a text for the decoder")
    made.add_argument("--alternatives", type=int, default=5, help="most probable tokens to show (%(default)s)")
    made.add_argument("--seed", type=int, default=0, help="seed of the corruption of --text (%(default)s)")
    made.add_argument("--out", type=Path, help="path of the page, without its ending")
    made.set_defaults(experiment=None)
    return made


def write(options: argparse.Namespace) -> None:
    given = [name for name in ("example", "text", "source") if getattr(options, name) is not None]
    require(len(given) == 1, "Give one of --example, --text and --source.")
    require(options.target is None or given == ["source"], "--target needs --source.")
    require(options.split == "held_out" or given == ["example"], f"--split {options.split} needs --example.")
    require(options.example is None or options.example > 0, f"--example is {options.example}: the first one is 1.")
    require(0 <= options.seed < 2**32, f"--seed is {options.seed}: it must lie in [0, 2**32).")
    from scripts.generate import open_model
    from scripts.task_evaluation import base_experiment

    directory, path = str(options.model), options.model
    experiment = None if given == ["source"] else base_experiment(options)
    require(
        given == ["source"] or experiment is not None,
        f"{directory} is not a run directory, whose examples and objective are known: give --source and --target.",
    )
    out = place(options)
    opened = open_model(options)
    what = {"example": f"{options.split} example {options.example}", "text": "a text", "source": "a source"}[given[0]]
    row, note = example(opened, experiment, options)
    from research.decode.inspection import inspect
    from research.report import inspection_page

    found = inspect(opened, row, options.alternatives)
    print(inspection_page.write(out, f"{Path(str(path)).absolute().name}: {what}", found, note))


def place(options: argparse.Namespace) -> Path:
    """Return the path of the page; a run's examples have one by default."""
    from research.pretrained.run_files import run_of
    from research.storage.bucket import is_remote

    out: Path | None = options.out
    if out is None:
        require(options.example is not None, "A text of your own needs --out, such as --out mine.")
        directory = run_of(options.model)
        assert directory is not None
        require(not is_remote(directory), f"{directory} is in a bucket: give a local --out.")
        out = Path(str(directory)) / f"{options.split}-example-{options.example}"
    require(out.absolute().parent.is_dir(), f"--out {out}: there is no directory {out.parent}.")
    return out


def example(opened: Any, experiment: "Experiment | None", options: argparse.Namespace) -> tuple[Any, str]:
    """Return the example of the options as a batch of one row, and a note about it."""
    if experiment is None:
        languages = (options.source_language, options.target_language)
        target = options.target
        if target is None:
            fields = {"source_language": languages[0], "target_language": languages[1]}
            (target,) = opened.generate([options.source], **fields)
        generator = opened.generator(opened.generation(languages[1], {}), languages)
        note = "" if options.target is not None else "The targets are the model's own output."
        return pair_row(generator, options.source, target), note
    if options.text is not None:
        return own_text(opened, experiment, options)
    if isinstance(experiment.data, Supervised):
        return of_task(opened, experiment, options), ""
    return of_corpus(opened, experiment, options), "The corruption of held-out text is that of every evaluation."


def pair_row(generator: Any, source: str, target: str) -> Any:
    """Make a batch of one source and target, without padding."""
    from dataclasses import replace

    from research.decode.inspection import one_row

    return one_row(replace(generator, batch_size=1).batch(generator.framed_pairs([(source, target)])), 0)


def of_task(opened: Any, experiment: "Experiment", options: argparse.Namespace) -> Any:
    """Read an example of a run's tasks, which are numbered through all of them, as in predictions.jsonl."""
    import numpy as np

    from research.data.tasks.task import open_task

    data, left = experiment.data, options.example
    assert isinstance(data, Supervised)
    for task in tasks_in(data.tasks, options.split):
        examples = open_task(task, options.split, data.manual_dir)
        if left <= len(examples):
            (one,) = examples.read(np.array([left - 1]))
            lengths = {"input_length": data.input_length, "target_length": data.target_length}
            generation = opened.generation(task.languages[1], {})
            generator = opened.generator(generation, task.languages, **lengths)
            return pair_row(generator, one.source, one.target)
        left -= len(examples)
    raise ConfigError(f"--example is {options.example}: there are {options.example - left:,} {options.split} examples.")


def of_corpus(opened: Any, experiment: "Experiment", options: argparse.Namespace) -> Any:
    """Read a held-out row of a run that denoises."""
    from research.decode.inspection import one_row
    from research.train.run import prepare_data

    require(options.split == "held_out", f"--split is {options.split}: for denoising it must be held_out.")
    pipeline = prepare_data(experiment)
    require(
        pipeline.tokenizer.digest == opened.tokenizer.digest,
        f"{options.model} was trained with another tokenizer than its data have now.",
    )
    size = experiment.batch_size
    rows = pipeline.held_out_rows // size * size
    require(options.example <= rows, f"--example is {options.example}: there are {rows:,} held-out rows.")
    *_, last = pipeline.held_out(options.example)
    return one_row(last, (options.example - 1) % size)


def own_text(opened: Any, experiment: "Experiment", options: argparse.Namespace) -> tuple[Any, str]:
    """Corrupt a text by the objective of a run."""
    from research.data.corpora.denoising import corrupted_text
    from research.decode.inspection import one_row

    data = experiment.data
    require(
        isinstance(data, Denoising),
        "--text is for a run that denoises, and this one learns tasks: give --source and --target.",
    )
    assert isinstance(data, Denoising)
    batch, left_out = corrupted_text(data, opened.tokenizer, options.text, experiment.model.zero_token, options.seed)
    note = f"The last {left_out} tokens of the text are left out: a row of this objective cannot have its length."
    return one_row(batch, 0), note if left_out else ""


if __name__ == "__main__":
    sys.exit(main())
