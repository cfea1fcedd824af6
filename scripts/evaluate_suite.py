"""A suite of tasks evaluated by one command, task by task: kintsugi evaluate MODEL --suite=glue"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, Supervised, require
from research.config.base import digest
from research.config.examples import Split
from research.data.tasks.classification import UNKNOWN, UNLABELLED
from research.data.tasks.submissions import SERVER_FILES, Unlabelled, UnlabelledOutputs, read_ids
from research.data.tasks.suites import Suite, SuiteTask, suite
from research.storage.bucket import any_path, is_remote
from scripts.generate import open_model
from scripts.task_evaluation import (
    PARTIAL_FORMAT,
    FoundModel,
    TaskSource,
    base_experiment,
    generator_of,
    open_journal,
    output_of,
    resolved,
    score_tasks,
    source_of,
    write_outputs,
    write_scores,
)

INCOMPLETE = 3  # exit code: a task could not be evaluated
TASK = "{task}"  # stands in MODEL for the name of each task
TABLES = ("suite.json", "suite.md", "submission")  # what the directory has beside those of the tasks

Members = Sequence[SuiteTask]


class MissingTask(ConfigError):
    """The examples or the model of a task are not there: the other tasks are evaluated."""


class Job(NamedTuple):
    """A task of the suite that is to be evaluated, with its model and the directory for its results."""

    member: SuiteTask
    eval_task: Any
    source: TaskSource
    opened: Any
    output: Path
    facts: dict[str, Any]
    ids: list[dict[str, int]]  # of a submission's examples


def evaluate_suite(options: argparse.Namespace, overrides: dict[str, str], chosen: dict[str, str]) -> int:
    """Evaluate the tasks of a suite that are not finished yet; write the table of all, and a submission's files."""
    asked = suite(options.suite)
    check(options, asked)
    split: Split = "test" if options.submission else options.split or "held_out"
    members = asked.tasks + (asked.diagnostics if options.submission else ())
    if options.suite_data is not None:
        members = tuple(member.read_from(options.suite_data) for member in members)
    output, found = place(options, members, split)
    changes = digest([sorted(overrides.items()), sorted(chosen.items())])
    jobs, missing = prepare(options, found, members, split, output, overrides, changes)
    require(len(missing) < len(members), f"No task of {asked.name} can be evaluated, as the notes say.")
    while jobs:
        run(jobs.pop(0), chosen, options)  # a model is freed with the last of its jobs
    facts = {"suite": asked.name, "model": str(options.model), "split": split}
    evaluated = [member for member in members if member.name not in missing]
    stored = read_results(evaluated, output)
    if options.submission:
        write_submission(evaluated, output, facts, missing)
    else:
        write_table(asked, stored, output, facts, missing)
    return INCOMPLETE if missing else 0


def check(options: argparse.Namespace, asked: Suite) -> None:
    if options.submission:
        require(len(asked.diagnostics) > 0, f"--submission: no server takes the suite {asked.name}.")
        require(options.split in (None, "test"), f"--submission is for the test sets, not --split={options.split}.")
    data = options.suite_data
    require(data is None or data.is_dir(), f"--suite_data {data}: there is no such directory.")


def place(options: argparse.Namespace, members: Members, split: Split) -> tuple[Path, FoundModel]:
    """Return the directory for the results, which may hold those of the same suite alone, and the model of all tasks.

    A model with {task} in its name stays as it is. The checkpoint of a run is verified here, once for all tasks.
    """
    found = FoundModel(options.model)
    if TASK not in str(options.model):
        found = resolved(options.model)
        options.model = found.model
    kind = "submission" if options.submission else split
    output = output_of(options, found, f"{options.suite}-{kind}")
    if output is None:
        raise ConfigError("The results of a suite are kept: give --output, a new directory.")
    known = {*TABLES, *(member.name for member in members)}
    free = not output.exists() or (output.is_dir() and {path.name for path in output.iterdir()} <= known)
    require(free, f"{output} exists and holds something else: nothing is overwritten, so give another --output.")
    return output, found


# --- Before any output is generated -----------------------------------------------------------------------------------


def prepare(
    options: argparse.Namespace,
    one_model: FoundModel,
    members: Members,
    split: Split,
    output: Path,
    overrides: dict[str, str],
    changes: str,
) -> tuple[list[Job], dict[str, str]]:
    """Return the jobs of the tasks that are not finished, and the reasons why others cannot be evaluated.

    Raises:
        ConfigError: a result is of another command; examples cannot be read, have a label that is none of the task's,
            or lack ids for a submission; or the model's vocabulary cannot write a label.
    """
    jobs: list[Job] = []
    missing: dict[str, str] = {}
    models: dict[str, Any] = {}
    for member in members:
        try:
            found = model_of(one_model, member)
            facts = facts_of(options, found, split) | {"changes": changes}
            if (output / member.name / "predictions.jsonl").exists():
                check_finished(output / member.name, facts)
                continue
            one = argparse.Namespace(**{**vars(options), "model": found.model})
            eval_task, source, ids = examples_of(one, member, split, overrides)
        except MissingTask as error:
            missing[member.name] = str(error)
            print(f"note: {member.name} is left out: {error}", file=sys.stderr)
            continue
        if str(found.model) not in models:
            models[str(found.model)] = open_model(one)
        opened = models[str(found.model)]
        check_labels(opened, member, found.model)
        jobs.append(Job(member, eval_task, source, opened, output / member.name, facts, ids))
    return jobs, missing


def model_of(one_model: FoundModel, member: SuiteTask) -> FoundModel:
    """Return the model of a task: that of all, or the one with its name in place of {task}."""
    if TASK not in str(one_model.model):
        return one_model
    model = any_path(str(one_model.model).replace(TASK, member.name))
    try:
        found = resolved(model)
    except ConfigError as error:
        raise MissingTask(str(error)) from error
    there = found.directory is not None or is_remote(model) or model.exists()
    if not there:
        raise MissingTask(f"there is no model {model}.")
    return found


def facts_of(options: argparse.Namespace, found: FoundModel, split: Split) -> dict[str, Any]:
    """Return what determines a task's results, apart from its examples and changed fields."""
    facts = {"model": str(found.model), "step": found.step, "split": split, "compute": options.compute}
    for name in ("adapter", "tokenizer", "suite_data"):
        value = getattr(options, name)
        facts |= {} if value is None else {name: str(value)}
    return facts | {"examples": options.examples, "seed": options.seed, "submission": options.submission}


def check_finished(directory: Path, facts: Mapping[str, Any]) -> None:
    """Raise ConfigError if the results of a task are of another command."""
    from research.report.record import read_object

    stored = read_object(directory / "scores.json")
    require(len(stored) > 0, f"{directory}/scores.json is missing or damaged: move the directory away.")
    differing = [name for name, value in facts.items() if stored.get(name) != value]
    require(not differing, f"{directory} differs in {', '.join(differing)} from this command: give another --output.")


def examples_of(
    options: argparse.Namespace, member: SuiteTask, split: Split, overrides: dict[str, str]
) -> tuple[Any, TaskSource, list[dict[str, int]]]:
    """Read the examples of a task, without labels and with ids for a submission. Raises MissingTask without any."""
    import dataclasses

    from research.decode import evaluate

    task, experiment = member.task, base_experiment(options)
    if options.submission:
        task = dataclasses.replace(task, examples=Unlabelled(task.examples))
    source = source_of(options.model, experiment, (task,), overrides)
    assert isinstance(source.data, Supervised)
    own = options.suite_data is not None
    if own and not member.file(options.suite_data, split).is_file():
        keys = ", ".join(dict.fromkeys(name.split("/")[0] for name in member.task.names.all))
        raise MissingTask(f"there is no {member.file(options.suite_data, split)}, of JSON objects with {keys}.")
    try:
        (eval_task,) = evaluate.load_eval_tasks(source.data, split, options.examples)
    except ConfigError as error:
        if own:
            raise
        raise MissingTask(str(error)) from error
    if not options.submission:
        check_labelled(eval_task, split)
        return eval_task, source, []
    names = SERVER_FILES[member.name].ids
    ids = read_ids(member.task.examples, split, names, len(eval_task.examples), source.data.manual_dir)
    return eval_task, source, ids


def check_labelled(eval_task: Any, split: Split) -> None:
    """Raise MissingTask if examples have no label, as those of GLUE's and SuperGLUE's test sets."""
    unlabelled = sum(
        example.target == UNKNOWN or example.more.get("label") == UNLABELLED for example in eval_task.examples
    )
    if unlabelled:
        count = f"{unlabelled:,} of the {len(eval_task.examples):,} examples of {split}"
        raise MissingTask(f"{count} have no label: give --split=held_out, or --submission for a server's files.")


def check_labels(opened: Any, member: SuiteTask, model: Any) -> None:
    """Raise ConfigError if the model's vocabulary cannot write a label of the task."""
    if not member.labels:
        return
    written = opened.tokenizer.target(list(member.labels), member.task.languages[1])
    for label, ids in zip(member.labels, written, strict=True):
        read = opened.tokenizer.text(ids)
        require(
            read == label,
            f"The vocabulary of {model} cannot write {label!r}, a label of {member.name}: it would be {read!r}.",
        )


# --- A task -----------------------------------------------------------------------------------------------------------


def run(job: Job, chosen: dict[str, str], options: argparse.Namespace) -> None:
    """Generate the outputs for a task; score them, or keep them with the ids of their examples for a submission."""
    from research.storage import console

    generator = generator_of(job.opened, job.eval_task, job.source, chosen, options.seed, job.member.labels)
    facts = job.facts | {"weights": generator.checksum}
    if options.submission:
        write_predictions(job, generator, facts)
        return
    results, _ = score_tasks([job.eval_task], [generator], job.output, facts)
    (result,) = results.values()
    scores = ", ".join(f"{name} {result['scores'][name]:.2f}" for name in job.member.scores)
    console.say(f"{job.member.name}: {scores}")


def write_predictions(job: Job, generator: Any, facts: dict[str, Any]) -> None:
    from research.storage.files import json_text

    one, count = job.eval_task, len(job.eval_task.examples)
    with open_journal([(one, generator)], job.output, [PARTIAL_FORMAT, "outputs alone"]) as journal:
        truncated = write_outputs(one, generator, journal)
        written = [journal.done[number] for number in range(count)]
        cut = sum(unfinished for _, unfinished in written)
        counts = {"examples": count, "truncated sources": truncated, "unfinished outputs": cut}
        write_scores(job.output / "scores.json", facts, {one.name: counts})
        journal.finish(
            json_text({"ids": ids, "source": example.source, "prediction": text, "references": example.references})
            for ids, example, (text, _) in zip(job.ids, one.examples, written, strict=True)
        )


# --- All tasks --------------------------------------------------------------------------------------------------------


def read_results(members: Members, output: Path) -> dict[str, dict[str, Any]]:
    """Read the scores.json of every task. Raises ConfigError if a model was changed between two tasks."""
    stored = {member.name: json.loads((output / member.name / "scores.json").read_text()) for member in members}
    first: dict[str, str] = {}
    for name, one in stored.items():
        before = first.setdefault(one["model"], name)
        same = stored[before]["weights"] == one["weights"]
        require(same, f"{one['model']} had other weights for {name} than for {before}: give another --output.")
    return stored


def write_table(
    asked: Suite, stored: dict[str, dict[str, Any]], output: Path, facts: dict[str, Any], missing: Mapping[str, str]
) -> None:
    """Write and print the scores of all finished tasks, their averages, and published scores."""
    from research.report.suite_table import published_data, suite_table
    from research.storage import console
    from research.storage.files import write_json, write_text

    tasks = {name: one | next(iter(one.pop("results").values())) for name, one in stored.items()}
    scores = {name: one["scores"] for name, one in tasks.items()}
    table = suite_table(asked, scores, f"{asked.name} ({facts['split']}): {facts['model']}")
    averages = asked.averages_of(scores)
    whole = {"tasks": tasks, "averages": averages, "missing": missing, "published": published_data(asked)}
    write_json(output / "suite.json", facts | whole)
    write_text(output / "suite.md", table.markdown())
    console.say(f"\n{table.text()}")
    say_end(output, missing)


def write_submission(members: Members, output: Path, facts: dict[str, Any], missing: Mapping[str, str]) -> None:
    """Write the files for the server; count outputs that are no label."""
    from research.storage import console
    from research.storage.files import read_lines, write_json, write_text

    files, shown = {}, {}
    (output / "submission").mkdir(exist_ok=True)
    for member in members:
        rows = read_lines(output / member.name / "predictions.jsonl")
        texts, references = [row["prediction"] for row in rows], [row["references"][0] for row in rows]
        file = SERVER_FILES[member.name]
        lines, unreadable = file.write(UnlabelledOutputs([row["ids"] for row in rows], texts, references))
        write_text(output / "submission" / file.name, "".join(f"{line}\n" for line in lines))
        files[member.name] = {"file": file.name, "outputs": len(rows), "outputs that are no label": unreadable}
        shown[file.name] = f"{len(rows):,} outputs, {unreadable:,} of them no label"
    console.table("\nFiles for the server", shown)
    write_json(output / "suite.json", facts | {"files": files, "missing": missing})
    say_end(output, missing)


def say_end(output: Path, missing: Mapping[str, str]) -> None:
    from research.storage import console

    for name, reason in missing.items():
        console.say(f"{name} is missing: {reason}")
    console.say(f"\nThe results are in {output}.")
