"""Evaluate what a trained model writes: kintsugi evaluate MODEL --split=test"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from research.config import (
    ConfigError,
    Denoising,
    Experiment,
    Mesh,
    Metric,
    Supervised,
    Task,
    override,
    require,
    score_names,
)
from research.storage.progress import Progress
from scripts import command_line
from scripts.generate import add_model_options, open_model
from scripts.task_evaluation import (
    ANSWERS,
    TaskSource,
    base_experiment,
    generator_of,
    output_of,
    ranker_of,
    resolved,
    score_tasks,
    show,
    source_of,
    write_scores,
)

EPILOG = """
models
  A run directory, its newest checkpoint (or runs/NAME/checkpoints/STEP or /best), a Hugging Face directory, a T5X
  checkpoint, Marian's .npz, fairseq's .pt. T5X and fairseq need --tokenizer; Marian's vocabularies lie beside its .npz.

what is evaluated
  A run is evaluated on the tasks of its experiment. For another model or other tasks give one of
    --experiment=experiments/FILE.py:SIZE   the tasks of another experiment
    --config.data...                        changes of that experiment's data, or the run's, as for train
    --task='Translation(examples=TSVExamples("train.tsv", test="test.tsv", columns=("en", "de")))'   (again for more)
  --task also takes --config.data.manual_dir, input_length and target_length: without lengths, texts are truncated only
  to the model's positions. Metrics are those of the tasks, from 0 to 100: BLEU(), ChrF(), ROUGE(), SQuAD(), Accuracy().
  Loss and perplexity a target token are for the first reference. A run that denoises has no tasks: its held-out loss,
  perplexity and token accuracy are printed.

how answers are chosen
  The model writes them. Or, for tasks with labels or choices, such as MNLI() or MultipleChoice(...), the one that it
  gives the highest likelihood is taken: --answers=ranked, or --answers=ranked_by_token for the likelihood a token. All
  metrics of the task score it; accuracy, F1 and the areas under two curves are t5's rank_classification's.

how tokens are chosen
  As in the run's evaluations, or by the model's files, or greedily; any field of Generation can be changed:
    --generation.method='Beam(5, length_penalty=Power(1.0))' --generation.max_length=200
  If the model's files state no max_length, it is data.target_length, or the length of the longest target.

suites
  --suite=glue, superglue, t5 or xtreme-gen evaluates all tasks of it into OUTPUT/TASK, with a table of averages and
  published scores in OUTPUT/suite.md. MODEL may hold {task}, the name of each task: 'runs/{task}/checkpoints/best'. The
  split is held_out unless --split is given. --suite_data=DIR reads DIR/TASK/SPLIT.jsonl; without it, data are TFDS's.
  A task without data or model is named, and the exit code is then 3; the same command continues. --submission writes
  the files for the server of GLUE or SuperGLUE from the test sets, into OUTPUT/submission. See docs/suites.md.

what is written
  OUTPUT/predictions.jsonl and OUTPUT/scores.json. OUTPUT is RUN/evaluations/SPLIT-STEP for a run, or SPLIT-STEP-ranked;
  for another model, and with --adapter, nothing is written without --output. Nothing is overwritten. Finished examples
  are kept in OUTPUT/predictions.jsonl.partial: the same command continues from there.

a file of outputs
  Any system's outputs can be scored, one a line, or .jsonl with "prediction" (as above) or "outputs" (as generate
  writes). References are files with one a line, or the "references" of the .jsonl:
    kintsugi evaluate --predictions hyp.txt --references ref1.txt ref2.txt --metrics 'BLEU()' 'ChrF()'
    kintsugi evaluate --predictions hyp.tok --references ref.tok --metrics 'BLEU("none", lowercase=True)'
    kintsugi evaluate --predictions runs/x/evaluations/test-9000/predictions.jsonl --metrics 'ROUGE()'

examples
  kintsugi evaluate runs/multi30k --split=held_out --examples=200
  kintsugi evaluate runs/multi30k/checkpoints/9000 --generation.method='Beam(4)' --output=beam4
  kintsugi evaluate t5-small --task='Summarization(examples=JSONExamples("a.jsonl", test="b.jsonl"),
      prefix="summarize: ")' --output=t5-small-b
  kintsugi evaluate runs/mnli --split=held_out --answers=ranked
"""


def main(arguments: list[str] | None = None) -> int:
    return command_line.run(parser(), run, arguments, (command_line.CONFIG, command_line.GENERATION))


def parser() -> argparse.ArgumentParser:
    made = command_line.parser("evaluate", __doc__, EPILOG)
    add_model_options(made, optional=True)
    made.add_argument("--experiment", help=f"evaluate on its data: {command_line.EXPERIMENT_HELP}")
    made.add_argument("--task", action="append", default=[], help="a task to evaluate instead of the experiment's")
    made.add_argument("--suite", help="evaluate every task of a suite: glue, superglue, t5, xtreme-gen")
    made.add_argument("--suite_data", type=Path, help="a directory with TASK/SPLIT.jsonl, instead of TFDS's data")
    made.add_argument("--submission", action="store_true", help="write the files for the server of GLUE or SuperGLUE")
    made.add_argument("--split", choices=("train", "held_out", "test"), help="(test; held_out for denoising)")
    made.add_argument("--examples", type=int, help="number of examples of each task, from the first on (all)")
    made.add_argument("--answers", choices=ANSWERS, default=ANSWERS[0], help="how they are found (%(default)s)")
    made.add_argument("--samples", type=int, default=3, help="number of examples of each task to print (%(default)s)")
    made.add_argument("--output", type=Path, help="a new directory; with --predictions, a new file for the scores")
    made.add_argument("--seed", type=int, default=0, help="seed of sampling (%(default)s)")
    made.add_argument("--predictions", help="score a file of outputs instead of a model")
    made.add_argument("--references", nargs="+", default=[], help="files of references, one or more")
    command_line.add_bad_bytes(made)
    made.add_argument("--metrics", nargs="+", default=[], help="metrics for the file of outputs")
    return made


def given(options: argparse.Namespace, *but: str) -> list[str]:
    """List the options that differ from their defaults, except those named in `but`."""
    defaults = vars(parser().parse_args([]))
    return [f"--{name}" for name, value in vars(options).items() if value != defaults[name] and name not in but]


def run(options: argparse.Namespace, overrides: dict[str, str], chosen: dict[str, str]) -> int:
    if options.predictions is not None:
        require(options.model is None, "Give a model or --predictions, not both.")
        unread = given(options, "predictions", "references", "metrics", "output", "bad_bytes")
        unread += ["--config..."] * bool(overrides) + ["--generation..."] * bool(chosen)
        require(
            not unread,
            f"{' and '.join(unread)} cannot be used with --predictions: the file is scored whole.",
        )
        metrics: tuple[Metric, ...] = tuple(override.parse(Metric, text, "--metrics") for text in options.metrics)
        require(
            len(metrics) > 0,
            "--predictions needs --metrics, such as 'BLEU()' 'ChrF()', or ROUGE(), SQuAD(), Accuracy().",
        )
        score_names(metrics)
        evaluate_file(options, metrics)
        return 0
    require(options.model is not None, "Give a model, or --predictions.")
    alone = [name for name in given(options) if name in ("--references", "--metrics", "--bad_bytes")]
    require(not alone, f"{' and '.join(alone)} cannot be used without --predictions.")
    require(options.examples is None or options.examples > 0, f"--examples is {options.examples}: above 0, or all.")
    require(0 <= options.seed < 2**32, f"--seed is {options.seed}: it must lie in [0, 2**32).")
    if options.suite is not None:
        from scripts.evaluate_suite import evaluate_suite  # it opens all tasks, which takes a moment

        unread = [name for name in given(options) if name in ("--experiment", "--task", "--samples", "--answers")]
        require(not unread, f"{' and '.join(unread)} cannot be used with --suite.")
        return evaluate_suite(options, overrides, chosen)
    alone = [name for name in given(options) if name in ("--suite_data", "--submission")]
    require(not alone, f"{' and '.join(alone)} cannot be used without --suite.")
    if options.answers != "written":
        unread = [name for name in given(options) if name == "--seed"] + ["--generation..."] * bool(chosen)
        require(not unread, f"{' and '.join(unread)} is for written answers, and --answers is {options.answers}.")
    experiment = base_experiment(options)  # before --task, which may name a class of its file
    tasks = tuple(override.parse(Task, text, "--task") for text in options.task)
    source = source_of(options.model, experiment, tasks, overrides)
    data = source.data
    split = options.split or ("test" if isinstance(data, Supervised) else "held_out")
    output, step = place(options, split)
    facts = {"model": str(options.model), "step": step, "split": split, "compute": options.compute}
    facts |= {} if options.adapter is None else {"adapter": str(options.adapter)}
    facts |= {} if options.answers == "written" else {"answers": options.answers}
    if isinstance(data, Denoising):
        assert source.experiment is not None
        require(split == "held_out", f"--split is {split}: for denoising it must be held_out.")
        unread = given(options, "model", "experiment", "split", "output", "tokenizer", "compute", "mesh")
        unread += ["--generation..."] * bool(chosen)
        require(not unread, f"{' and '.join(unread)} is for tasks, and this experiment denoises.")
        evaluate_denoising(options, source.experiment, output, facts)
    else:
        evaluate_tasks(options, source, chosen, output, facts)
    return 0


def place(options: argparse.Namespace, split: str) -> tuple[Path | None, int | None]:
    """Return the directory for the results, which may not exist yet, and the step of a run's checkpoint."""
    found = resolved(options.model)
    options.model = found.model
    output = output_of(options, found, split)
    if output is not None:
        interrupted = (output / "predictions.jsonl.partial").exists()
        free = interrupted or not output.exists() or (output.is_dir() and not any(output.iterdir()))
        require(free, f"{output} exists: nothing is overwritten, so give another --output.")
    return output, found.step


# --- Tasks ------------------------------------------------------------------------------------------------------------


def evaluate_tasks(
    options: argparse.Namespace, source: TaskSource, chosen: dict[str, str], output: Path | None, facts: dict[str, Any]
) -> None:
    from research.decode import evaluate, ranking
    from research.train import summary

    assert isinstance(source.data, Supervised)
    eval_tasks = evaluate.load_eval_tasks(source.data, facts["split"], options.examples)
    if options.answers == "written":
        opened = open_model(options)
        generators = [generator_of(opened, one, source, chosen, options.seed) for one in eval_tasks]
        facts = facts | {"seed": options.seed}
    else:
        for one in eval_tasks:
            ranking.choices_of(one)  # refuses a task without choices before the model is opened
        opened = open_model(options)
        generators = [ranker_of(opened, one, source) for one in eval_tasks]
    results, answers = score_tasks(eval_tasks, generators, output, facts, options.answers)
    for one, part in zip(eval_tasks, answers, strict=True):
        shown = evaluate.samples(one, part.written, options.samples)
        summary.show_samples(f"{one.name}: example", [sample._asdict() for sample in shown])
    show(results, output)


# --- Denoising --------------------------------------------------------------------------------------------------------


def evaluate_denoising(
    options: argparse.Namespace, experiment: Experiment, output: Path | None, facts: dict[str, Any]
) -> None:
    """Compute the loss over all whole batches within evaluation.rows, with the evaluation step of training."""
    from research.decode import evaluate
    from research.parallel.mesh import check_divisible, place_batch
    from research.pretrained.find import check_same_model
    from research.train.run import prepare_data
    from research.train.step import EachShape, compile_eval_step

    opened = open_model(options)
    check_same_model(experiment.model, opened.weights.model, options.model)
    mesh = override.parse(Mesh, options.mesh, "--mesh")
    experiment = dataclasses.replace(experiment, model=opened.config, mesh=mesh)
    check_divisible(experiment, opened.mesh)
    pipeline = prepare_data(experiment)
    same = pipeline.tokenizer.digest == opened.tokenizer.digest
    require(
        same,
        f"{options.model} was trained with another tokenizer than the experiment's: give its own.",
    )
    eval_step = EachShape(partial(compile_eval_step, experiment, opened.mesh), pipeline.batch_shapes)
    size, most = experiment.batch_size, experiment.evaluation.rows
    with Progress("Evaluating", min(-(-most // size), pipeline.held_out_rows // size), "batches") as progress:

        def batches() -> Iterator[Any]:
            for batch in pipeline.held_out(most):
                yield place_batch(opened.mesh, batch)
                progress.advance()

        held_out = evaluate.held_out(eval_step, opened.params, batches())
    loss = held_out["held_out_loss"]
    result = {
        "rows": progress.done * size,
        "loss": loss,
        "perplexity": math.exp(loss),
        "token_accuracy": 100 * held_out["held_out_accuracy"],
    }
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_scores(output / "scores.json", facts, {"denoising": result})
    show({"denoising": result}, output)


# --- A file of outputs ------------------------------------------------------------------------------------------------


def evaluate_file(options: argparse.Namespace, chosen_metrics: tuple[Metric, ...]) -> None:
    from research.score import metrics, outputs
    from research.storage.journal import check_new

    check_new(options.output)
    metrics.check(chosen_metrics)
    predictions, references, more = outputs.read_predictions(options.predictions, options.bad_bytes)
    if options.references:
        references = outputs.read_references(
            options.references, len(predictions), options.predictions, options.bad_bytes
        )
    if references is None:
        raise ConfigError(f"{options.predictions} has no references: give files of references with --references.")
    metrics.check_references(chosen_metrics, references, options.predictions)
    scores = metrics.score(chosen_metrics, predictions, references, more)
    result = {
        "examples": len(predictions),
        "scores": {name: score.value for name, score in scores.items()},
        "signatures": {name: score.signature for name, score in scores.items()},
    }
    if options.output is not None:
        files = {"predictions": options.predictions, "references": options.references}
        write_scores(options.output, files, {options.predictions: result})
    show({options.predictions: result}, options.output)


if __name__ == "__main__":
    sys.exit(main())
