"""A table of a suite of tasks: the scores here beside published ones."""

from collections.abc import Iterator, Mapping, Sequence

from research.data.tasks.suites import SHOWN, Scores, Suite
from research.report.published_suites import PUBLISHED_SUITES, PublishedModel
from research.report.table import Cell, Table


def suite_table(suite: Suite, scores: Scores, title: str) -> Table:
    """Make the table: a row for each task and each average, a column for the scores here and for each model."""
    models = [model for model in PUBLISHED_SUITES if _concerns(model, suite)]
    rows = [
        [
            Cell(member.title),
            Cell("/".join(SHOWN[name] for name in member.scores)),
            _scores([scores.get(member.name, {}).get(name) for name in member.scores], "{:.2f}"),
            *(_scores(model.scores.get(member.name, ())) for model in models),
        ]
        for member in suite.tasks
    ]
    for name, value in suite.averages_of(scores).items():
        theirs = [_scores([model.averages.get(name)]) for model in models]
        rows.append([Cell(name), Cell("average"), _scores([value], "{:.2f}"), *theirs])
    header = ("task", "scores", "here", *(model.name for model in models))
    return Table(title, header, rows, " ".join(_notes(models)))


def _concerns(model: PublishedModel, suite: Suite) -> bool:
    titles = {average.title for average in suite.averages}
    return any(member.name in model.scores for member in suite.tasks) or not titles.isdisjoint(model.averages)


def _scores(values: Sequence[float | None], form: str = "{}") -> Cell:
    """Write the scores of a task as leaderboards do: 92.8/90.4; an unknown one of several is -."""
    if all(value is None for value in values):
        return Cell("")
    return Cell("/".join("-" if value is None else form.format(value) for value in values))


def _notes(models: Sequence[PublishedModel]) -> Iterator[str]:
    by_source: dict[tuple[str, str], list[str]] = {}
    for model in models:
        by_source.setdefault((model.source, model.sets), []).append(model.name)
    for (source, sets), names in by_source.items():
        yield f"{', '.join(names)}: {sets} ({source})."
    yield "Blank: no published score that was read."


def published_data(suite: Suite) -> list[Mapping[str, object]]:
    """Return the published scores that concern a suite as JSON data."""
    names = {member.name for member in suite.tasks}
    return [
        {
            "model": model.name,
            "sets": model.sets,
            "source": model.source,
            "scores": {name: list(values) for name, values in model.scores.items() if name in names},
            "averages": dict(model.averages),
        }
        for model in PUBLISHED_SUITES
        if _concerns(model, suite)
    ]
