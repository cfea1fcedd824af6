"""Tables as HTML for pages, Markdown for terminals, LaTeX for papers and CSV for spreadsheets."""

import csv
import html
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$",
    }
)  # fmt: skip


class Cell(NamedTuple):
    text: str
    best: bool = False  # best value of its column
    link: str = ""  # relative, for pages
    raw: str | None = None  # for spreadsheets, if it differs from the text

    @property
    def is_number(self) -> bool:
        return self.text[:1].lstrip("-−").isdigit() or self.text in ("-", "")


class Table(NamedTuple):
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def html(self, caption: bool = True) -> str:
        """Render as HTML; on narrow screens the table scrolls by itself, also with the keyboard."""
        numeric = [all(row[column].is_number for row in self.rows) for column in range(len(self.header))]
        kinds = [" class=number" if is_number else "" for is_number in numeric]
        head = "".join(
            f"<th scope=col{kind}>{html.escape(name)}</th>" for name, kind in zip(self.header, kinds, strict=True)
        )
        body = "".join(
            "<tr>" + "".join(_html(cell, kind) for cell, kind in zip(row, kinds, strict=True)) + "</tr>\n"
            for row in self.rows
        )
        caption_tag = f"<caption>{html.escape(self.title)}</caption>" if caption else ""
        note = f"<p class=note>{html.escape(self.note)}</p>" if self.note else ""
        name = html.escape(self.title, quote=True)
        return (
            f'<div class=scroll tabindex=0 role=region aria-label="{name}"><table>{caption_tag}<thead><tr>{head}</tr>'
            f"</thead>\n<tbody>{body}</tbody></table></div>{note}\n"
        )

    def markdown(self) -> str:
        def line(texts: Sequence[str]) -> str:
            return "| " + " | ".join(texts) + " |\n"

        def shown(cell: Cell) -> str:
            return f"**{as_markdown(cell.text)}**" if cell.best else as_markdown(cell.text)

        rows = "".join(line(list(map(shown, row))) for row in self.rows)
        title = f"{as_markdown(self.title)}\n\n" if self.title else ""
        note = f"\n{as_markdown(self.note)}\n" if self.note else ""
        return title + line(list(map(as_markdown, self.header))) + line(["---"] * len(self.header)) + rows + note

    def text(self) -> str:
        """Render for a terminal: columns are aligned, numbers to the right."""
        lines = [list(self.header), *([" ".join(cell.text.split()) or "-" for cell in row] for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in _range(self)]
        right = [all(row[column].is_number for row in self.rows) for column in _range(self)]
        aligned = [
            [
                f"{text:>{width}}" if is_number else f"{text:<{width}}"
                for text, width, is_number in zip(line, widths, right, strict=True)
            ]
            for line in lines
        ]
        shown = ["  ".join(line).rstrip() for line in aligned]
        shown.insert(1, "-" * max(map(len, shown)))
        return "\n".join([self.title, *(f"  {line}" for line in shown), *([f"  {self.note}"] if self.note else []), ""])

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([[cell.text if cell.raw is None else cell.raw for cell in row] for row in self.rows])
        return text.getvalue()

    def latex(self) -> str:
        """Render as LaTeX, which needs \\usepackage{booktabs}."""

        def shown(cell: Cell) -> str:
            text = cell.text.translate(LATEX)
            return rf"\textbf{{{text}}}" if cell.best else text

        columns = "".join("r" if all(row[column].is_number for row in self.rows) else "l" for column in _range(self))
        head = " & ".join(name.translate(LATEX) for name in self.header) + r" \\"
        body = "".join("    " + " & ".join(map(shown, row)) + " \\\\\n" for row in self.rows)
        caption = f"  \\caption{{{' '.join(filter(None, (self.title, self.note))).translate(LATEX)}}}\n"
        return (
            "\\begin{table}\n  \\centering\n"
            + caption
            + f"  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n    {head}\n"
            f"    \\midrule\n{body}    \\bottomrule\n  \\end{{tabular}}\n\\end{{table}}\n"
        )


def as_markdown(text: str) -> str:
    """Write text for a line of Markdown, without HTML, links, code or columns of its own."""
    return re.sub(r"[\\`*\[\]|]", r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


def _range(table: Table) -> range:
    return range(len(table.header))


def _html(cell: Cell, kind: str) -> str:
    text = html.escape(cell.text)
    if cell.link:
        text = f'<a href="{html.escape(cell.link, quote=True)}">{text}</a>'
    return f"<td{kind}>" + (f"<strong>{text}</strong> <span class=mark>best</span>" if cell.best else text) + "</td>"
