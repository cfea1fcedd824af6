"""Paired significance tests of systems evaluated on the same examples.

BLEU and chrF are corpus-level, and their p-values equal those of sacreBLEU's `PairedTest` exactly: bootstrap resampling
(Koehn, 2004) and approximate randomization (Riezler and Maxwell, 2005). All other measures are means over examples, and
use the same resamples and exchanges. Their p-values count differences at least as large as the observed one, since
exact match has few values and therefore many ties; sacreBLEU counts only larger ones.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from rich.markup import escape
from rich.table import Table

from research.config import Metric, override, parse_json, require
from research.config.parts import calling, place
from research.score import metrics
from research.score.bleu import SacreBLEU, known_scorer, streams
from research.score.outputs import Predictions, ReferenceTexts, read_tasks
from research.storage.console import console

RESAMPLES, TRIALS = 1_000, 10_000  # of the bootstrap and of the randomization, as in sacreBLEU
ROUNDING = 1e-9  # points: above the error of reordered sums, below any real difference between results


class System(NamedTuple):
    """An evaluated system with its predictions for each task."""

    name: str
    tasks: dict[str, Predictions]
    metrics: dict[str, tuple[Metric, ...]]  # by task, from its evaluation; empty if not recorded


class SystemResult(NamedTuple):
    """A system's result against the baseline; the interval holds 95 % of the bootstrap's differences."""

    system: str
    score: float
    difference: float
    interval: tuple[float, float]
    p_bootstrap: float
    p_randomization: float


class Comparison(NamedTuple):
    """One measure of one task for all systems; publish its numbers with `signature`."""

    baseline: str
    score: float
    signature: str
    others: tuple[SystemResult, ...]


# --- Systems ----------------------------------------------------------------------------------------------------------


def read_systems(directories: Sequence[Path]) -> list[System]:
    """Read evaluations from the output directories of scripts.evaluate.

    Raises:
        ConfigError: there are fewer than two; one holds no evaluation of tasks; or two have different tasks, examples
            or references.
    """
    require(len(directories) > 1, "Give two or more evaluations: the others are compared with the first.")
    systems = [_read(directory) for directory in directories]
    for system in systems[1:]:
        _check_same(systems[0], system)
    return systems


def _read(directory: Path) -> System:
    require(directory.is_dir(), f"{directory}: there is no such directory.")
    path = directory / "predictions.jsonl"
    unfinished = directory / "predictions.jsonl.partial"
    require(not unfinished.exists(), f"{directory} is not finished: run the same scripts.evaluate command again.")
    require(
        path.is_file(), f"{directory} has no predictions.jsonl: give a directory that scripts.evaluate wrote for tasks."
    )
    tasks = read_tasks(str(path))
    scores = directory / "scores.json"
    content = parse_json(scores.read_bytes(), str(scores)) if scores.is_file() else {}
    try:
        recorded = {task: content["results"][task]["metrics"] for task in tasks}
    except (KeyError, TypeError):  # an evaluation from before metrics were recorded
        return System(str(directory), tasks, {task: () for task in tasks})
    parsed = {
        task: tuple(override.parse(Metric, text, str(scores)) for text in texts) for task, texts in recorded.items()
    }
    return System(str(directory), tasks, parsed)


def _check_same(first: System, other: System) -> None:
    both = f"{first.name} and {other.name}"
    names = [", ".join(sorted(system.tasks)) for system in (first, other)]
    require(names[0] == names[1], f"{both} have different tasks, {names[0]} and {names[1]}: evaluate both on the same.")
    for task, one in first.tasks.items():
        two = other.tasks[task]
        counts = [len(predictions.sources) for predictions in (one, two)]
        require(
            counts[0] == counts[1],
            f"{both} have {counts[0]} and {counts[1]} examples of {task}: evaluate the same number.",
        )
        for what in ("sources", "references"):
            pairs = zip(getattr(one, what), getattr(two, what), strict=True)
            differ = [number for number, (a, b) in enumerate(pairs, 1) if a != b]
            where = f"example {differ[0]} of {task}" if differ else ""
            require(not differ, f"{both} have different {what} from {where} on: evaluate both on the same examples.")


# --- Comparisons ------------------------------------------------------------------------------------------------------


def compare(systems: Sequence[System], given: tuple[Metric, ...] = ()) -> dict[str, dict[str, Comparison]]:
    """Compare systems on every measure of every task, by default with the metrics of the first system's evaluation.

    Raises:
        ConfigError: no metrics are given or recorded, or one cannot be computed on this machine.
    """
    compared: dict[str, dict[str, Comparison]] = {}
    for task, first in systems[0].tasks.items():
        chosen = given or systems[0].metrics[task]
        missing = f"{systems[0].name} has no metrics for {task}"
        require(len(chosen) > 0, f"{missing}: give --metrics 'BLEU()' 'ChrF()', or ROUGE(), SQuAD(), Accuracy().")
        metrics.check(chosen)
        metrics.check_references(chosen, first.references, task)
        written = [(system.name, system.tasks[task].predictions) for system in systems]
        compared[task] = {}
        for metric in chosen:
            compared[task] |= _compared(metric, written, first.references)
    return compared


def _compared(
    metric: Metric, written: list[tuple[str, list[str]]], references: ReferenceTexts
) -> dict[str, Comparison]:
    if isinstance(metric, SacreBLEU) and type(metric).score is SacreBLEU.score:
        return {metric.names[0]: _of_corpora(metric, written, references)}
    require(
        metric.is_mean,
        f"{place(type(metric))}{metric!r} has no scores of single examples, which a paired test needs: define"
        " score_example() in place of score(), or compare with other --metrics.",
    )
    names = [name for name, _ in written]
    each = [metrics.score_each([metric], predictions, references) for _, predictions in written]
    with calling(metric, "signature"):
        signature = f"{metric.signature(references)}|seed:{_seed()}|bs:{RESAMPLES}|ar:{TRIALS}"
    columns = {name: [np.array([row[name] for row in rows]) for rows in each] for name in metric.names}
    return {name: _of_means(names, column, signature) for name, column in columns.items()}


def _seed() -> int | None:
    """Return the seed from the environment, as sacreBLEU does."""
    seed = os.environ.get("SACREBLEU_SEED", "12345")
    return None if seed.lower() == "none" else int(seed)


def _resamples(examples: int) -> Int[np.ndarray, "resamples examples"]:
    return np.random.default_rng(_seed()).choice(examples, size=(RESAMPLES, examples), replace=True)


def _exchanges(examples: int) -> Bool[np.ndarray, "trials examples"]:
    """Draw, for each trial, the examples in which two systems exchange their outputs."""
    return np.random.default_rng(_seed()).integers(2, size=(TRIALS, examples), dtype=bool)


def _interval(values: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """Return the central 95 % interval, cut as in sacreBLEU's `estimate_ci`."""
    ordered, cut = np.sort(values), len(values) // 40
    return float(ordered[cut]), float(ordered[len(ordered) - cut - 1])


# --- BLEU and chrF ----------------------------------------------------------------------------------------------------


def _of_corpora(metric: SacreBLEU, written: list[tuple[str, list[str]]], references: ReferenceTexts) -> Comparison:
    scorer, columns = known_scorer(metric), streams(references)
    bootstrap, signature = _paired_test(scorer, written, columns, "bs", RESAMPLES)
    randomization, _ = _paired_test(scorer, written, columns, "ar", TRIALS)
    # Sufficient statistics of the score, one row for each example; PairedTest resamples these but does not expose them.
    sums = [np.array(scorer._extract_corpus_statistics(predictions, columns)) for _, predictions in written]
    resamples = _resamples(len(references))
    resampled = [_resampled_scores(scorer, rows, resamples) for rows in sums]
    others = []
    for number, (name, _) in enumerate(written[1:], 1):
        # For equal scores sacreBLEU would return the smallest possible p-value.
        alike = np.array_equal(sums[0], sums[number])
        p_values = [1.0 if alike else results[number].p_value for results in (bootstrap, randomization)]
        score = bootstrap[number].score
        interval = _interval(resampled[number] - resampled[0])
        others.append(SystemResult(name, score, score - bootstrap[0].score, interval, *p_values))
    return Comparison(written[0][0], bootstrap[0].score, f"{signature}|ar:{TRIALS}", tuple(others))


def _paired_test(scorer: Any, written: Any, streams: Any, kind: str, count: int) -> tuple[list[Any], str]:
    """Run sacreBLEU's paired test; return the result of every system, the baseline first, and the signature."""
    from sacrebleu.significance import PairedTest

    signatures, columns = PairedTest(written, {"score": scorer}, streams, kind, count)()
    ((name, signature),) = signatures.items()
    return columns[name], str(signature)


def _resampled_scores(scorer: Any, sums: np.ndarray, resamples: np.ndarray) -> Float[np.ndarray, " resamples"]:
    return np.array([scorer._compute_score_from_stats(sums[drawn].sum(0)).score for drawn in resamples])


# --- Means over examples ----------------------------------------------------------------------------------------------


def _of_means(names: list[str], scores: list[Float[np.ndarray, " examples"]], signature: str) -> Comparison:
    resamples, exchanged = _resamples(len(scores[0])), _exchanges(len(scores[0]))
    others = []
    for name, column in zip(names[1:], scores[1:], strict=True):
        gains = column - scores[0]
        difference = float(gains.mean())
        # In parts: the full array would have a number for every trial and example.
        parts = [np.where(part, -gains, gains).mean(1) for part in np.array_split(exchanged, TRIALS // 100)]
        drawn = gains[resamples].mean(1)
        p_bootstrap = _share_as_large(drawn - difference, difference)
        p_randomization = _share_as_large(np.concatenate(parts), difference)
        others.append(
            SystemResult(name, float(column.mean()), difference, _interval(drawn), p_bootstrap, p_randomization)
        )
    return Comparison(names[0], float(scores[0].mean()), signature, tuple(others))


def _share_as_large(by_chance: Float[np.ndarray, " draws"], difference: float) -> float:
    """Return the p-value: the share of differences at least as large under the null, counting the observed one."""
    count = np.sum(np.abs(by_chance) >= abs(difference) - ROUNDING).item()
    return (count + 1) / (len(by_chance) + 1)


# --- Results ----------------------------------------------------------------------------------------------------------


def as_data(compared: dict[str, dict[str, Comparison]]) -> dict[str, Any]:
    """Convert comparisons to plain data for JSON."""

    def one(measure: Comparison) -> dict[str, Any]:
        return measure._asdict() | {"others": [other._asdict() for other in measure.others]}

    return {task: {name: one(measure) for name, measure in measures.items()} for task, measures in compared.items()}


def show(compared: dict[str, dict[str, Comparison]]) -> None:
    """Print a table for each task, with the signatures of its numbers."""
    for task, measures in compared.items():
        table = Table("measure", "system", title=escape(task))
        for column in ("score", "difference", "95 % of it", "p bootstrap", "p random"):
            table.add_column(column, justify="right")
        for name, one in measures.items():
            table.add_row(name, escape(one.baseline), f"{one.score:.2f}")
            for other in one.others:
                interval = "{:+.2f} to {:+.2f}".format(*other.interval)
                numbers = (f"{other.score:.2f}", f"{other.difference:+.2f}", interval)
                p_values = (f"{other.p_bootstrap:.4f}", f"{other.p_randomization:.4f}")
                table.add_row("", escape(other.system), *numbers, *p_values, end_section=other is one.others[-1])
        console.print(table)
        for name, one in measures.items():
            console.print(f"{name}: {one.signature}", markup=False)
