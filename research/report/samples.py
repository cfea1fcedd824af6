"""Held-out samples over a run: what the model writes at each evaluation, and what changed since the one before."""

import difflib
import html
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from research.report import page
from research.report.record import RunRecord
from research.report.table import Cell, Table
from research.storage.console import amount_of

MOST_EVALUATIONS = 40  # of a sample: the first, the last, and some between
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|\s+|.", re.S)  # a letter of Japanese and Chinese is a word
NOTE = "Words that are new since the evaluation above are underlined, and words that are gone are struck through."


def samples(record: RunRecord) -> list[str]:
    """Show how the outputs for the same held-out examples change, from the first evaluation to the last."""
    steps = sorted({line["step"] for line in record.samples if isinstance(line.get("step"), int)})
    if not steps:
        return []
    last, most = len(steps) - 1, min(len(steps), MOST_EVALUATIONS)
    chosen = [steps[round(last * part / max(1, most - 1))] for part in range(most)]
    by_step = {step: [line for line in record.samples if line.get("step") == step] for step in chosen}
    left_out = f" {most} of {len(steps)} evaluations are shown." * (most < len(steps))
    return [
        page.folded(
            f"Held-out example {number + 1}" + (f" of {line['task']}" if line.get("task") else ""),
            table([(step, lines[number]) for step, lines in by_step.items() if number < len(lines)], number, left_out),
            opened=number == 0,
        )
        for number, line in enumerate(by_step[steps[-1]])
    ]


def table(outputs: Sequence[tuple[int, dict[str, Any]]], number: int, left_out: str) -> str:
    """Make the table of one example: its texts, then a row for each output that differs from the one before."""
    first = outputs[0][1]
    written = "filled" if "filled" in first else "written"
    rows = [
        [Cell(name), Cell(str(first[name]))] for name in ("input", "source", "original", "reference") if name in first
    ]
    before: str | None = None
    for text, group in groupby(outputs, key=lambda one: str(one[1].get(written, ""))):
        steps = [step for step, _ in group]
        rows.append([Cell(f"step {steps[0]:,}"), Cell(text, markup=changes(text if before is None else before, text))])
        if len(steps) > 1:
            more = amount_of(len(steps) - 1, "more evaluation")
            rows.append([Cell(f"to step {steps[-1]:,}"), Cell(f"unchanged in {more}")])
        before = text
    differs = len({row[1].text for row in rows if row[0].text.startswith("step ")}) > 1
    note = (NOTE * differs + left_out).strip()
    return Table(f"Held-out example {number + 1}", ("", "text"), rows, note).html(caption=False)


def changes(before: str, after: str) -> str:
    """Write the later text in HTML, with the words that are new in <ins> and those that are gone in <del>."""
    old, new = WORD.findall(before), WORD.findall(after)
    parts = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, added = (html.escape("".join(words)) for words in (old[a:b], new[c:d]))
        if kind == "equal":
            parts.append(added)
            continue
        parts += [f"<del>{gone}</del>"] * bool(gone) + [f"<ins>{added}</ins>"] * bool(added)
    return "".join(parts)
