"""Evaluate what a trained model writes: kintsugi evaluate MODEL --split=test"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from research.config import (
    ConfigError,
    Denoising,
    Experiment,
    Generation,
    Mesh,
    Metric,
    Supervised,
    Task,
    load,
    override,
    require,
    score_names,
)
from research.storage.bucket import is_remote
from research.storage.progress import Progress
from scripts import command_line
from scripts.generate import add_model_options, open_model

TEACHER_FORCED = (
    ("loss", "nats a target token"),
    ("perplexity", "of target tokens"),
    ("token_accuracy", "of target tokens, given the true ones before"),
)

ANSWERS = ("written", "ranked", "ranked_by_token")
PARTIAL_FORMAT = 2  # increment when the lines of predictions.jsonl.partial hold something else

COUNTED = (
    ("truncated sources", "longer than the model reads"),
    ("truncated targets", "longer than the model reads"),
    ("unfinished outputs", "cut at generation.max_length, with no end of their own"),
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
    if options.answers != "written":
        unread = [name for name in given(options) if name == "--seed"] + ["--generation..."] * bool(chosen)
        require(not unread, f"{' and '.join(unread)} is for written answers, and --answers is {options.answers}.")
    experiment = base_experiment(options)  # before --task, which may name a class of its file
    tasks = tuple(override.parse(Task, text, "--task") for text in options.task)
    if experiment is not None and tasks and isinstance(experiment.data, Denoising):
        experiment = None  # it has no tasks
    data: Denoising | Supervised
    lengths: dict[str, int | None] = {}
    if experiment is not None:
        experiment = override.apply(experiment, overrides)
        data = experiment.data
        if isinstance(data, Supervised):
            data = dataclasses.replace(data, tasks=tasks or data.tasks)
            lengths = {"input_length": data.input_length, "target_length": data.target_length}
    else:
        require(
            len(tasks) > 0,
            f"{options.model} is not a run directory: give --task or --experiment.",
        )
        data, lengths = data_alone(tasks, overrides)
    split = options.split or ("test" if isinstance(data, Supervised) else "held_out")
    output, step = place(options, split)
    facts = {"model": str(options.model), "step": step, "split": split, "compute": options.compute}
    facts |= {} if options.adapter is None else {"adapter": str(options.adapter)}
    facts |= {} if options.answers == "written" else {"answers": options.answers}
    if isinstance(data, Denoising):
        assert experiment is not None
        require(split == "held_out", f"--split is {split}: for denoising it must be held_out.")
        unread = given(options, "model", "experiment", "split", "output", "tokenizer", "compute", "mesh")
        unread += ["--generation..."] * bool(chosen)
        require(not unread, f"{' and '.join(unread)} is for tasks, and this experiment denoises.")
        evaluate_denoising(options, experiment, output, facts)
    else:
        default = None if experiment is None else experiment.generation
        evaluate_tasks(options, data, lengths, default, chosen, output, facts)
    return 0


def base_experiment(options: argparse.Namespace) -> Experiment | None:
    """Read the experiment of --experiment or, without it, of the run; None for a model that is not a run."""
    if options.experiment is not None:
        return load.open_experiment(options.experiment).config
    from research.pretrained.run_files import run_of
    from research.storage import run_directory

    directory = run_of(options.model)
    if directory is None:
        return None
    return run_directory.read_recorded(directory, None if directory == options.model else options.model)[0]


def data_alone(tasks: tuple[Task, ...], overrides: dict[str, str]) -> tuple[Supervised, dict[str, int | None]]:
    """Return the data for tasks without an experiment, and its lengths: None leaves them to the model's positions."""
    others = [f"--config.{name}" for name in overrides if not name.startswith("data.")]
    require(
        not others,
        f"{' and '.join(others)} changes an experiment: give a run directory or --experiment. With --task alone only"
        " --config.data... can be changed.",
    )
    changes = {name.removeprefix("data."): text for name, text in overrides.items()}
    data = override.apply(Supervised(tasks), changes)
    return data, {name: getattr(data, name) if name in changes else None for name in ("input_length", "target_length")}


def place(options: argparse.Namespace, split: str) -> tuple[Path | None, int | None]:
    """Return the directory for the results, which may not exist yet, and the step of a run's checkpoint."""
    from research.pretrained.run_files import checkpoint_of, run_of
    from research.storage import run_directory

    directory = run_of(options.model)
    checkpoint = None if directory is None else checkpoint_of(options.model)
    step = None if checkpoint is None else int(checkpoint.name)
    if checkpoint is not None:
        options.model = checkpoint  # a run that is still training may save a newer one
    output = options.output
    if output is None and directory is not None and options.adapter is None:
        require(not is_remote(directory), f"{directory} is in a bucket: give a local --output for the results.")
        run_directory.check_contained(Path(directory))
        kind = "" if options.answers == "written" else f"-{options.answers}"
        output = Path(directory) / "evaluations" / f"{split}-{step}{kind}"
    if output is not None:
        parent = output.absolute().parent
        require(options.output is None or parent.is_dir(), f"{output}: there is no directory {parent}.")
        interrupted = (output / "predictions.jsonl.partial").exists()
        free = interrupted or not output.exists() or (output.is_dir() and not any(output.iterdir()))
        require(free, f"{output} exists: nothing is overwritten, so give another --output.")
    return output, step


# --- Tasks ------------------------------------------------------------------------------------------------------------


def evaluate_tasks(
    options: argparse.Namespace,
    data: Supervised,
    lengths: dict[str, int | None],
    default: Generation | None,
    chosen: dict[str, str],
    output: Path | None,
    facts: dict[str, Any],
) -> None:
    from research.decode import evaluate, ranking
    from research.storage.files import json_text
    from research.storage.journal import Journal
    from research.train import summary

    eval_tasks = evaluate.load_eval_tasks(data, facts["split"], options.examples)
    written = options.answers == "written"
    answer = write_answers if written else partial(rank_answers, by_token=options.answers == "ranked_by_token")
    choices = [] if written else [ranking.choices_of(one) for one in eval_tasks]
    opened = open_model(options)
    if written:
        generations = [generation_for(opened, one, default, lengths["target_length"], chosen) for one in eval_tasks]
    else:
        generations = [opened.generation(one.task.languages[1], {}) for one in eval_tasks]
    generators = [
        opened.generator(generation, one.task.languages, seed=options.seed, **lengths)
        for one, generation in zip(eval_tasks, generations, strict=True)
    ]
    for generator, one in () if written else zip(generators, eval_tasks, strict=True):
        ranking.check_not_empty(generator, one)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    identity = [
        [generator.identity(), [example[:4] for example in one.examples]]
        for generator, one in zip(generators, eval_tasks, strict=True)
    ]
    identity.append([PARTIAL_FORMAT] if written else [PARTIAL_FORMAT, options.answers, choices])
    where = None if output is None else output / "predictions.jsonl"
    with Journal(where, identity) as journal:
        first, all_answers = 0, []
        for one, generator in zip(eval_tasks, generators, strict=True):
            found, first = answer(one, generator, journal, first)
            all_answers.append(found)
        results = {
            one.name: part.result(one, by) for one, part, by in zip(eval_tasks, all_answers, generations, strict=True)
        }
        if output is not None:
            write_scores(output / "scores.json", facts | ({"seed": options.seed} if written else {}), results)
            rows = (row for one, part in zip(eval_tasks, all_answers, strict=True) for row in part.rows(one))
            numbered = ({"number": number} | row for number, row in enumerate(rows, 1))
            journal.finish(json_text(row) for row in numbered)
    for one, part in zip(eval_tasks, all_answers, strict=True):
        shown = evaluate.samples(one, part.written, options.samples)
        summary.show_samples(f"{one.name}: example", [sample._asdict() for sample in shown])
    show(results, output)


def generation_for(
    opened: Any, eval_task: Any, default: Generation | None, target_length: int | None, chosen: dict[str, str]
) -> Generation:
    """Return the run's evaluation.generation or, without one, what the model's files have, with the chosen fields.

    If these files state no max_length, it is the target length or, without one, that of the task's longest target.
    """
    from research.pretrained.find import with_controls

    language = eval_task.task.languages[1]
    if default is not None:
        return opened.generation(language, chosen, with_controls(default, opened.config, opened.tokenizer, language))
    base, rule = opened.weights.generation(opened.tokenizer, language), ""
    if not opened.weights.states_max_length and "max_length" not in chosen:
        rule = "data.target_length"
        if target_length is None:
            targets = [text for references in eval_task.references for text in references]
            target_length, rule = max(map(len, opened.tokenizer.target(targets, language))), "its longest target"
        base = dataclasses.replace(base, max_length=max(target_length, base.min_length))
    generation = opened.generation(language, chosen, base)
    if rule:
        rule = rule if generation.max_length == base.max_length else "the model's positions allow"
        limit = f"outputs of {eval_task.name} have at most {generation.max_length} tokens, as {rule}"
        print(f"note: the model's files state no max_length: {limit}.", file=sys.stderr)
    return generation


def write_answers(eval_task: Any, generator: Any, journal: Any, first: int) -> "tuple[Answers, int]":
    """Generate outputs for a task and score its targets; every finished batch is kept in the journal.

    Entries in the journal are numbered from `first`: first the outputs, then the targets. The number after them is
    returned too.
    """
    count = len(eval_task.examples)
    framed, notes = generator.prepare(eval_task.sources)
    done = frozenset(number - first for number in journal.done)
    with Progress(f"Writing {eval_task.name}", count, "examples") as progress:
        progress.advance(len(done & frozenset(range(count))))
        for outputs in generator.run(framed, done):
            best = {first + number: hypotheses[0] for number, hypotheses in outputs.items()}
            journal.add({number: [one.text, generator.unfinished(one.tokens)] for number, one in best.items()})
            progress.advance(len(outputs))
    written, unfinished = zip(*(journal.done[first + number] for number in range(count)), strict=True)
    pairs = [(example.source, example.target) for example in eval_task.examples]
    likelihoods = score(f"Scoring the targets of {eval_task.name}", pairs, generator, journal, first + count)
    cut_targets = generator.cut_targets([target for _, target in pairs])
    return Answers(list(written), likelihoods, len(notes.truncated), cut_targets, sum(unfinished)), first + 2 * count


def rank_answers(eval_task: Any, generator: Any, journal: Any, first: int, by_token: bool) -> "tuple[Answers, int]":
    """Score the choices and the target of each example of a task; the journal is used as by `write_answers`."""
    from research.decode import ranking

    pairs = ranking.pairs_to_score(eval_task)
    _, notes = generator.prepare(eval_task.sources)
    scored = score(f"Scoring the choices of {eval_task.name}", pairs, generator, journal, first)
    ranked, likelihoods = ranking.ranked(eval_task, scored, by_token)
    cut = generator.cut_targets([text for _, text in pairs])
    return Answers(ranked.answers, likelihoods, len(notes.truncated), cut, 0, ranked), first + len(pairs)


def score(
    title: str, pairs: list[tuple[str, str]], generator: Any, journal: Any, first: int
) -> list[tuple[float, int]]:
    """Score the target of each (source, target) pair, with entries in the journal numbered from `first`."""
    done = frozenset(number - first for number in journal.done)
    with Progress(title, len(pairs), "texts") as progress:
        progress.advance(len(done & frozenset(range(len(pairs)))))
        for scores in generator.score_pairs(pairs, done):
            journal.add({first + number: [sum(each), len(each)] for number, each in scores.items()})
            progress.advance(len(scores))
    return [tuple(journal.done[first + number]) for number in range(len(pairs))]


class Answers(NamedTuple):
    """Outputs and target likelihoods of all examples of a task."""

    written: list[str]
    likelihoods: list[tuple[float, int]]  # log-probability of the target in nats, and its tokens
    truncated: int  # number of sources longer than the model reads
    truncated_targets: int  # number of targets, and of choices, longer than is scored
    unfinished: int  # number of outputs that are cut at max_length
    ranked: Any = None  # choices with their likelihoods, if outputs are not written

    def result(self, eval_task: Any, generation: Generation) -> dict[str, Any]:
        from research.score import metrics

        scores = metrics.score(eval_task.task.metrics, self.written, eval_task.references, eval_task.more)
        how = {"unfinished outputs": self.unfinished, "generation": json.loads(override.to_json(generation))}
        if self.ranked is not None:
            scores, how = scores | self.ranked.numbers(), {}
        tokens = sum(tokens for _, tokens in self.likelihoods)
        loss = -sum(likelihood for likelihood, _ in self.likelihoods) / tokens
        return {
            "examples": len(eval_task.examples),
            "truncated sources": self.truncated,
            "truncated targets": self.truncated_targets,
            **how,
            "metrics": [repr(metric) for metric in eval_task.task.metrics],
            "scores": {name: score.value for name, score in scores.items()},
            "signatures": {name: score.signature for name, score in scores.items()},
            "loss": loss,
            "perplexity": math.exp(loss),
            "target_tokens": tokens,
        }

    def rows(self, eval_task: Any) -> Iterator[dict[str, Any]]:
        from research.score import metrics

        each = metrics.score_each(eval_task.task.metrics, self.written, eval_task.references)
        choices = repeat({}) if self.ranked is None else self.ranked.rows()
        parts = zip(eval_task.examples, self.written, each, self.likelihoods, choices, strict=False)
        for example, written, scores, (likelihood, tokens), ranked in parts:
            texts = {"source": example.source, "prediction": written, "references": example.references}
            texts |= {"more": dict(example.more)} if example.more else {}
            texts |= ranked
            yield (
                {"task": eval_task.name}
                | texts
                | {"scores": scores, "target_nll": -likelihood, "target_tokens": tokens}
            )


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


# --- Results ----------------------------------------------------------------------------------------------------------


def write_scores(path: Path, facts: dict[str, Any], results: dict[str, dict[str, Any]]) -> None:
    from research.storage import run_directory
    from research.storage.files import write_json

    write_json(path, {**facts, **run_directory.environment(), "results": results})


def show(results: dict[str, dict[str, Any]], output: Path | None) -> None:
    """Print every score with its signature."""
    from research.storage import console

    for name, result in results.items():
        counted = next(f"{result[unit]:,} {unit}" for unit in ("examples", "rows") if unit in result)
        signed = result.get("scores", {})
        rows = {number: f"{value:10.2f}  {result['signatures'][number]}" for number, value in signed.items()}
        for number, unit in TEACHER_FORCED:
            if number in result:
                rows[number] = f"{result[number]:10.5g}  {unit}"
        for number, why in COUNTED:
            if result.get(number):
                rows[number] = f"{result[number]:10,}  {why}"
        console.table(f"\n{name}: {counted}", rows)
    if output is not None:
        console.say(f"\nThe results are in {output}.")


if __name__ == "__main__":
    sys.exit(main())
