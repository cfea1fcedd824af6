"""Tables and a page of the data of an experiment: how much there is, its lengths, and rows as training reads them."""

from collections.abc import Sequence
from pathlib import Path

from research.config.base import visible
from research.report import page, plot
from research.report.data_overview import (
    QUANTILES,
    Overview,
    ShownRow,
    TaskSplit,
    TextSplit,
    TokenLengths,
    edges,
    histogram,
    quantiles,
)
from research.report.table import Cell, Table
from research.storage.console import amount_of

BARS = " ▁▂▃▄▅▆▇█"
LETTERS = 600  # of a text that is shown in part


def tables(found: Overview, charts: bool = True) -> list[Table]:
    """Make the tables of an overview; `charts` adds bars to the lengths, which LaTeX cannot set."""
    text = [text_table(found.texts), left_out_table(found.texts)] if found.texts else []
    made = [*text, task_table(found.tasks), rows_table(found), denoiser_table(found)]
    return [table for table in (*made, length_table(lengths_of(found), charts)) if table.rows]


def text_table(splits: Sequence[TextSplit]) -> Table:
    rows = [_text_row(split, splits) for split in splits]
    for name in dict.fromkeys(split.split for split in splits):
        own = [split for split in splits if split.split == name]
        if len(own) > 1:
            documents, tokens = sum(split.documents for split in own), sum(split.tokens for split in own)
            rows.append(_cells("total", name, "", f"{documents:,}", f"{tokens:,}", "100.0 %", "", "", ""))
    header = ("corpus", "split", "language", "documents", "tokens", "share", "characters a token", "bytes a token")
    sampled = max(len(split.lengths) for split in splits)
    note = f"The share is of the split's tokens. The last three columns are of up to {amount_of(sampled, 'document')}."
    return Table("Text", (*header, "unknown"), rows, note)


def _text_row(split: TextSplit, splits: Sequence[TextSplit]) -> list[Cell]:
    tokens = max(1, int(split.lengths.sum()))
    total = max(1, sum(other.tokens for other in splits if other.split == split.split))
    return _cells(
        split.name, split.split, split.language or "-", f"{split.documents:,}", f"{split.tokens:,}",
        _percent(split.tokens / total), f"{split.characters / tokens:.2f}", f"{split.bytes / tokens:.2f}",
        _percent(split.unknown / tokens),
    )  # fmt: skip


def left_out_table(splits: Sequence[TextSplit]) -> Table:
    rows = [
        _cells(split.name, f"{sum(split.left_out) + split.documents:,}", *(f"{count:,}" for count in split.left_out))
        for split in splits
        if any(split.left_out)
    ]
    header = ("corpus", "documents before", "within their corpus", "of an earlier corpus", "held out")
    return Table("Documents left out, which repeat others", header, rows)


def rows_table(found: Overview) -> Table:
    """Show how many rows each corpus or task has, and gives in an epoch of all."""
    rows, splits = [], list[TextSplit | TaskSplit]([*found.texts, *found.tasks])
    for split in splits:
        if split.rows is not None and split.epoch is not None:
            share, passes = split.epoch / found.train_rows, split.epoch / max(1, split.rows)
            rows.append(_cells(split.name, f"{split.rows:,}", _percent(share), f"{split.epoch:,.0f}", f"{passes:.2f}"))
    note = (
        f"An epoch is {found.train_rows:,} rows: as many as there are to train on. The rates are those of the mixing."
    )
    return Table("Rows", ("name", "rows", "rate", "rows an epoch", "times each is read"), rows, note)


def denoiser_table(found: Overview) -> Table:
    rows = [
        _cells(one.objective, one.prefix or "-", *map(str, (one.raw, one.inputs, one.targets)), _percent(one.share))
        for one in found.denoisers
    ]
    note = "Raw tokens become inputs and targets, which count sentinels and special tokens; if rows differ, the most."
    return Table("Objective", ("denoiser", "prefix", "raw", "inputs", "targets", "rate"), rows, note)


def task_table(splits: Sequence[TaskSplit]) -> Table:
    def part(split: TaskSplit, count: int) -> str:
        return f"{count:,} ({_percent(count / len(split.sources))})"

    rows = [
        _cells(
            split.name, split.split, " to ".join(language or "-" for language in split.languages),
            f"{len(split.sources):,}", *(part(split, count) for count in split.long),
        )
        for split in splits
    ]  # fmt: skip
    header = ("task", "split", "languages", "examples", "long sources", "long targets", "cut or left out")
    note = (
        "Long ones do not fit in data.input_length or data.target_length; data.too_long decides what becomes of them."
    )
    return Table("Examples", header, rows, note)


def lengths_of(found: Overview) -> list[tuple[str, TokenLengths]]:
    """Return all lengths, each with the name of what has them."""
    texts = [(f"{split.name}, {split.split}", split.lengths) for split in found.texts]
    for split in found.tasks:
        texts += [(f"{split.name}, {split.split}, {side}", getattr(split, side)) for side in ("sources", "targets")]
    return texts


def length_table(several: Sequence[tuple[str, TokenLengths]], charts: bool) -> Table:
    bins = edges([lengths for _, lengths in several])
    rows = [
        _cells(
            name, f"{len(lengths):,}", *(f"{length:,}" for length in quantiles(lengths).values()),
            *[bars(histogram(lengths, bins))] * charts,
        )
        for name, lengths in several
    ]  # fmt: skip
    axis = f" A bar counts the lengths of its bin, on a logarithmic axis from {bins[0]:,} to {bins[-1] - 1:,}."
    header = ("lengths", "of", *QUANTILES, *["chart"] * charts)
    return Table("Lengths in tokens", header, rows, axis.strip() if charts else "")


def bars(counts: Sequence[int]) -> str:
    """Draw counts as bars of one letter each; what is not empty is seen."""
    most = max(1, *counts)
    return "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in counts)


def row_text(row: ShownRow, letters: int | None) -> str:
    """Describe a row in lines; of each text up to `letters` are shown."""
    title = ", ".join(filter(None, (f"Row {row.row:,}", row.name, row.objective)))
    parts = [("text", row.raw)] if row.raw else []
    several = max(len(row.inputs), len(row.targets)) > 1
    for number, (given, wanted) in enumerate(zip(row.inputs, row.targets, strict=True), 1):
        after = f" {number}" if several else ""
        parts += [(f"input{after}", given), (f"target{after}", wanted)]
    width = max(len(name) for name, _ in parts) if parts else 0
    lines = [f"  {name:<{width}}  {_shortened(text, letters)}" for name, text in parts]
    return "\n".join([f"{title}: {row.tokens[0]} input and {row.tokens[1]} target tokens", *lines])


def _shortened(text: str, letters: int | None) -> str:
    shown = visible(text, "")
    if letters is None or len(shown) <= letters:
        return shown
    return f"{shown[:letters]} ... ({len(shown) - letters:,} letters more)"


def terminal(found: Overview, letters: int | None) -> str:
    """Return the overview as text for a terminal."""
    shown = [table.text() for table in tables(found)]
    return "\n".join(
        [*shown, *(f"{note}\n" for note in found.notes), *(f"{row_text(row, letters)}\n" for row in found.rows)]
    )


def write(path: Path, title: str, found: Overview) -> Path:
    """Write the overview as a page, and its tables beside it."""
    made = tables(found, charts=False)
    drawn = page.charts(*(_chart(name, lengths) for name, lengths in lengths_of(found)))
    shown = "".join(page.preformatted(row_text(row, None)) for row in found.rows)
    body = "".join(page.section(table.title, table) for table in made) + page.section("Charts of lengths", drawn)
    body += page.section("Notes", *map(page.paragraph, found.notes)) + page.section(
        "Rows as the model reads them", shown
    )
    return page.write(path, title, body, made)


def _chart(name: str, lengths: TokenLengths) -> str:
    bins = edges([lengths])
    counts = histogram(lengths, bins)
    shares = [100 * count / max(1, sum(counts)) for count in counts]
    svg = plot.curves(
        [plot.Series(name, bins[:-1].tolist(), shares)],
        title=name, x_label="tokens", y_label="share (%)", logarithmic=(True, False),
    )  # fmt: skip
    spread = ", ".join(f"{label} {length:,}" for label, length in quantiles(lengths).items())
    return page.chart(svg, f"Lengths of {name}: {spread}", f"{len(lengths):,} lengths: {spread}")


def _cells(*texts: str) -> list[Cell]:
    return [Cell(text) for text in texts]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.0005 else f"{100 * share:.2g} %"
