"""The parts that evaluations of tasks share: data, the outputs and scores of one task, and the results of all."""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from research.config import Denoising, Experiment, Generation, Supervised, Task, load, override, require
from research.storage.bucket import is_remote
from research.storage.progress import Progress

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

TextLengths = dict[str, int | None]  # input_length and target_length; None leaves them to the model's positions


# --- Model and directory ----------------------------------------------------------------------------------------------


class FoundModel(NamedTuple):
    """A model to evaluate: for a run, its directory, its checkpoint as the model, and the step."""

    model: Any
    directory: Any = None
    step: int | None = None


def resolved(model: Any) -> FoundModel:
    """Find the checkpoint of a run, since one that is still training may save a newer one; other models are kept."""
    from research.pretrained.run_files import checkpoint_of, run_of

    directory = run_of(model)
    if directory is None:
        return FoundModel(model)
    checkpoint = checkpoint_of(model)
    return FoundModel(checkpoint, directory, int(checkpoint.name))


def output_of(options: argparse.Namespace, found: FoundModel, name: str) -> Path | None:
    """Return --output or, for a run, its directory evaluations/NAME-STEP. Raises ConfigError if it cannot be made."""
    from research.storage import run_directory

    output, directory = options.output, found.directory
    if output is None and directory is not None and options.adapter is None:
        require(not is_remote(directory), f"{directory} is in a bucket: give a local --output for the results.")
        run_directory.check_contained(Path(directory))
        kind = "" if options.answers == "written" else f"-{options.answers}"
        return Path(directory) / "evaluations" / f"{name}-{found.step}{kind}"
    if output is not None:
        parent = output.absolute().parent
        require(parent.is_dir(), f"{output}: there is no directory {parent}.")
    return output


# --- Data -------------------------------------------------------------------------------------------------------------


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


class TaskSource(NamedTuple):
    """The data to evaluate on, the generation settings of their experiment, and the lengths of texts."""

    data: Denoising | Supervised
    generation: Generation | None
    lengths: TextLengths
    experiment: Experiment | None = None


def source_of(
    model: Any, experiment: Experiment | None, tasks: tuple[Task, ...], overrides: dict[str, str]
) -> TaskSource:
    """Return the experiment's data, with other tasks if some are given; or the data for these tasks alone."""
    if experiment is not None and tasks and isinstance(experiment.data, Denoising):
        experiment = None  # it has no tasks
    if experiment is None:
        require(len(tasks) > 0, f"{model} is not a run directory: give --task or --experiment.")
        data, lengths = data_alone(tasks, overrides)
        return TaskSource(data, None, lengths)
    experiment = override.apply(experiment, overrides)
    data_of_it = experiment.data
    if not isinstance(data_of_it, Supervised):
        return TaskSource(data_of_it, experiment.generation, {}, experiment)
    own: TextLengths = {"input_length": data_of_it.input_length, "target_length": data_of_it.target_length}
    replaced = dataclasses.replace(data_of_it, tasks=tasks or data_of_it.tasks)
    return TaskSource(replaced, experiment.generation, own, experiment)


def data_alone(tasks: tuple[Task, ...], overrides: dict[str, str]) -> tuple[Supervised, TextLengths]:
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


# --- Outputs ----------------------------------------------------------------------------------------------------------


def generator_of(
    opened: Any,
    eval_task: Any,
    source: TaskSource,
    chosen: dict[str, str],
    seed: int,
    outputs: Sequence[str] = (),
) -> Any:
    """Return the generator for a task; `outputs` are texts that it must have room for, besides the references."""
    generation = generation_for(opened, eval_task, source, chosen, outputs)
    return opened.generator(generation, eval_task.task.languages, seed=seed, **text_lengths(opened, source))


def text_lengths(opened: Any, source: TaskSource) -> TextLengths:
    """Return the lengths that texts are truncated to: those that are given, or the model's positions."""
    longest = opened.config.longest
    return {name: longest if length is None else length for name, length in source.lengths.items()}


def generation_for(
    opened: Any, eval_task: Any, source: TaskSource, chosen: dict[str, str], outputs: Sequence[str]
) -> Generation:
    """Return the run's evaluation.generation or, without one, what the model's files have, with the chosen fields.

    If these files state no max_length, it is the target length or, without one, that of the task's longest target.
    """
    from research.pretrained.find import with_controls

    language, target_length = eval_task.task.languages[1], source.lengths["target_length"]
    if source.generation is not None:
        default = with_controls(source.generation, opened.config, opened.tokenizer, language)
        return opened.generation(language, chosen, default)
    base, rule = opened.weights.generation(opened.tokenizer, language), ""
    if not opened.weights.states_max_length and "max_length" not in chosen:
        rule = "data.target_length"
        if target_length is None:
            targets = [*outputs, *(text for references in eval_task.references for text in references)]
            target_length, rule = max(map(len, opened.tokenizer.target(targets, language))), "its longest target"
        base = dataclasses.replace(base, max_length=max(target_length, base.min_length))
    generation = opened.generation(language, chosen, base)
    if rule:
        rule = rule if generation.max_length == base.max_length else "the model's positions allow"
        limit = f"outputs of {eval_task.name} have at most {generation.max_length} tokens, as {rule}"
        print(f"note: the model's files state no max_length: {limit}.", file=sys.stderr)
    return generation


def ranker_of(opened: Any, eval_task: Any, source: TaskSource) -> Any:
    """Return the generator that scores the choices of a task."""
    from research.decode import ranking

    languages = eval_task.task.languages
    generator = opened.generator(opened.generation(languages[1], {}), languages, **text_lengths(opened, source))
    ranking.check_not_empty(generator, eval_task)
    return generator


def score_tasks(
    eval_tasks: Sequence[Any],
    generators: Sequence[Any],
    output: Path | None,
    facts: dict[str, Any],
    how: str = "written",
) -> tuple[dict[str, dict[str, Any]], list["Answers"]]:
    """Find and score the answers of all tasks, and write them: predictions.jsonl is complete once it exists."""
    from research.decode import ranking
    from research.storage.files import json_text

    pairs = list(zip(eval_tasks, generators, strict=True))
    written = how == "written"
    answer = write_answers if written else partial(rank_answers, by_token=how == "ranked_by_token")
    kind = [PARTIAL_FORMAT] if written else [PARTIAL_FORMAT, how, [ranking.choices_of(one) for one in eval_tasks]]
    with open_journal(pairs, output, kind) as journal:
        first, all_answers = 0, []
        for one, generator in pairs:
            found, first = answer(one, generator, journal, first)
            all_answers.append(found)
        results = {
            one.name: part.result(one, generator.generation)
            for (one, generator), part in zip(pairs, all_answers, strict=True)
        }
        if output is not None:
            write_scores(output / "scores.json", facts, results)
            rows = (row for one, part in zip(eval_tasks, all_answers, strict=True) for row in part.rows(one))
            numbered = ({"number": number} | row for number, row in enumerate(rows, 1))
            journal.finish(json_text(row) for row in numbered)
    return results, all_answers


def open_journal(pairs: Sequence[tuple[Any, Any]], output: Path | None, kind: list[Any]) -> Any:
    """Open the journal of predictions.jsonl for (task, generator) pairs; `kind` tells what its entries are."""
    from research.storage.journal import Journal

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    identity = [*([each.identity(), [example[:4] for example in one.examples]] for one, each in pairs), kind]
    return Journal(None if output is None else output / "predictions.jsonl", identity)


def write_answers(eval_task: Any, generator: Any, journal: Any, first: int) -> "tuple[Answers, int]":
    """Generate outputs for a task and score its targets; every finished batch is kept in the journal.

    Entries in the journal are numbered from `first`: first the outputs, then the targets. The number after them is
    returned too.
    """
    count = len(eval_task.examples)
    truncated = write_outputs(eval_task, generator, journal, first)
    written, unfinished = zip(*(journal.done[first + number] for number in range(count)), strict=True)
    pairs = [(example.source, example.target) for example in eval_task.examples]
    likelihoods = score(f"Scoring the targets of {eval_task.name}", pairs, generator, journal, first + count)
    cut_targets = generator.cut_targets([target for _, target in pairs])
    return Answers(list(written), likelihoods, truncated, cut_targets, sum(unfinished)), first + 2 * count


def write_outputs(eval_task: Any, generator: Any, journal: Any, first: int = 0) -> int:
    """Generate the outputs for a task into the journal, numbered from `first`; return how many sources are cut."""
    count = len(eval_task.examples)
    framed, notes = generator.prepare(eval_task.sources)
    done = frozenset(number - first for number in journal.done)
    with Progress(f"Writing {eval_task.name}", count, "examples") as progress:
        progress.advance(len(done & frozenset(range(count))))
        for outputs in generator.run(framed, done):
            best = {first + number: hypotheses[0] for number, hypotheses in outputs.items()}
            journal.add({number: [one.text, generator.unfinished(one.tokens)] for number, one in best.items()})
            progress.advance(len(outputs))
    return len(notes.truncated)


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
