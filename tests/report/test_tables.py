"""One table as HTML, Markdown, CSV and LaTeX: what a text holds never becomes markup."""

import csv

from research.report.table import Cell, Table

TABLE = Table(
    "A <title> & 50%",
    ("name", "loss_a"),
    [[Cell("x|y <b>", link="a b.html"), Cell("1.50 ± 0.10", best=True, raw="1.5")], [Cell("a\nb"), Cell("-")]],
    note="of 3 seeds",
)


def test_html_escapes_and_marks_the_best() -> None:
    page = TABLE.html()
    assert "<caption>A &lt;title&gt; &amp; 50%</caption>" in page
    assert '<a href="a b.html">x|y &lt;b&gt;</a>' in page
    assert "<td class=number><strong>1.50 ± 0.10</strong> <span class=mark>best</span></td>" in page
    assert "<caption>" not in TABLE.html(caption=False)


def test_markdown_is_one_line_a_row() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[2:6] == ["| name | loss_a |", "| --- | --- |", r"| x\|y &lt;b&gt; | **1.50 ± 0.10** |", "| a b | - |"]


def test_nothing_in_a_cell_is_markup_in_markdown() -> None:
    texts = ("<script>alert(1)</script>", "[x](javascript:y)", "`code` and **bold**", "a & b \\")
    table = Table("<h1>", texts[:1], [[Cell(text)] for text in texts], "<b>")
    markdown = table.markdown()
    assert "<" not in markdown
    assert r"| \[x\](javascript:y) |" in markdown
    assert r"| \`code\` and \*\*bold\*\* |" in markdown
    assert "| a &amp; b \\\\ |" in markdown


def test_csv_holds_what_a_spreadsheet_reads() -> None:
    assert list(csv.reader(TABLE.csv().splitlines(keepends=True))) == [
        ["name", "loss_a"],
        ["x|y <b>", "1.5"],
        ["a\nb", "-"],
    ]


def test_latex_escapes_and_is_bold_at_the_best() -> None:
    latex = TABLE.latex()
    assert r"\caption{A $<$title$>$ \& 50\% of 3 seeds}" in latex
    assert r"\begin{tabular}{lr}" in latex
    assert r"    name & loss\_a \\" in latex
    assert r"x|y $<$b$>$ & \textbf{1.50 $\pm$ 0.10} \\" in latex
