"""A report page: one HTML file that needs no network, and its tables as files next to it.

Its charts react by two scripts in it, uPlot and charts.js. Its content security policy lets no other script run.
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path

from research.config import require
from research.config.base import visible
from research.report.table import Table, as_markdown
from research.storage.files import write_text

HERE = Path(__file__).parent
SCRIPTS = tuple((HERE / name).read_text() for name in ("uplot/uPlot.iife.min.js", "charts.js"))
MARKER = "<!-- made by scripts.report -->"
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 72rem; }
h1 { font-size: 1.5rem; line-height: 1.25; overflow-wrap: anywhere; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ccc; }
a { color: #0b5394; }
:focus-visible { outline: 3px solid #0072B2; outline-offset: 2px; }
.state { font-size: 1.05rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .75rem 0; background: linear-gradient(to right, #fff 40%, #fff0) left,
  linear-gradient(to left, #fff 40%, #fff0) right, linear-gradient(to right, #0004, #0000) left,
  linear-gradient(to left, #0004, #0000) right; background-repeat: no-repeat;
  background-size: 2.5rem 100%, 2.5rem 100%, .9rem 100%, .9rem 100%;
  background-attachment: local, local, scroll, scroll; } /* shadows where a table continues */
.scroll::-webkit-scrollbar { height: .6rem; background: #eee; }
.scroll::-webkit-scrollbar-thumb { background: #888; border-radius: .3rem; }
table { border-collapse: collapse; font-size: .875rem; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e4e4e4; }
th { border-bottom: 2px solid #999; }
td { max-width: 34rem; overflow-wrap: break-word; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.mark { font-size: .7rem; border: 1px solid #555; border-radius: 3px; padding: 0 .2rem; white-space: nowrap; }
.note, figcaption { color: #444; font-size: .85rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; } img { width: 100%; max-width: 36rem; height: auto; display: block; }
pre { background: #f6f6f6; padding: .75rem; font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
ins { background: #d9f2de; text-decoration: underline; } del { background: #fbe4e4; text-decoration: line-through; }
summary { cursor: pointer; padding: .4rem 0; }
.switch > input { margin: 0 .3rem 0 0; } .switch > label { margin-right: 1rem; }
.switch > .panel { display: none; }
.switch > input:nth-of-type(1):checked ~ .panel:nth-of-type(1),
.switch > input:nth-of-type(2):checked ~ .panel:nth-of-type(2),
.switch > input:nth-of-type(3):checked ~ .panel:nth-of-type(3) { display: block; }
@media print { body { max-width: none; } .switch > .panel { display: block; }
  .switch > span, .switch > input, .switch > label { display: none; }
  figure, tr { break-inside: avoid; } .scroll { overflow: visible; background: none; } table { font-size: .65rem; }
  th, td { padding-right: .4rem; } }
"""
ALL_STYLE = STYLE + (HERE / "uplot/uPlot.min.css").read_text() + (HERE / "charts.css").read_text()
LIVING = "<figure class=living "


def document(title: str, body: str, every: int | None = None, style: str = "") -> str:
    """Make the page, with `style` after that of all pages. A served one asks its server again after `every` seconds."""
    name, style = html.escape(visible(title)), ALL_STYLE + style
    scripts = SCRIPTS if every or LIVING in body else ()
    live = "" if every is None else f" data-every={every}"
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    policy += f"; script-src {' '.join(map(_hash, scripts))}" * bool(scripts)
    policy += "; connect-src 'self'" * (every is not None)
    return (
        f'<!doctype html>\n{MARKER}\n<html lang="en"{live}><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title>'
        f"<style>{style}</style></head>\n<body><main>\n<h1>{name}</h1>\n{visible(body)}</main>\n"
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body></html>\n"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def section(title: str, *parts: str | Table) -> str:
    """Make a section; empty text without parts. A table with the section's title is shown without a caption."""
    shown = [part if isinstance(part, str) else part.html(part.title != title) for part in parts if part not in ("",)]
    content = "".join(shown)
    return f"<section><h2>{html.escape(title)}</h2>\n{content}</section>\n" if content else ""


def charts(*figures: str) -> str:
    content = "".join(figures)
    return f"<div class=charts>{content}</div>\n" if content else ""


def chart(svg: str, alternative: str, caption: str = "") -> str:
    return f"<figure>{picture(svg, alternative, caption)}</figure>\n"


def picture(svg: str, alternative: str, caption: str = "") -> str:
    """Embed an SVG document; `alternative` is its description in words, for screen readers."""
    data = base64.b64encode(svg.encode()).decode()
    shown = f"<p class=note>{html.escape(caption)}</p>" if caption else ""
    alt = html.escape(alternative, quote=True)
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{alt}">{shown}\n'


def living(pictures: str, data: str, title: str, alternative: str, caption: str = "") -> str:
    """Make a figure that charts.js draws from its data; print and readers without scripts see the pictures."""
    named, alt = html.escape(title, quote=True), html.escape(alternative, quote=True)
    shown = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'{LIVING}data-title="{named}" data-alternative="{alt}"><div class=picture>{pictures}</div>{shown}'
        f"<script type=application/json>{data}</script></figure>\n"
    )


def switch(name: str, legend: str, panels: Sequence[tuple[str, str]]) -> str:
    """Show one of up to three panels at a time, chosen with radio buttons; all of them in print."""
    inputs = "".join(
        f'<input type=radio name="{name}" id="{name}{number}"{"" if number else " checked"}>'
        f'<label for="{name}{number}">{html.escape(label)}</label>'
        for number, (label, _) in enumerate(panels)
    )
    shown = "".join(f"<div class=panel>{content}</div>\n" for _, content in panels)
    label, name = html.escape(legend), html.escape(legend, quote=True)
    return f'<div class=switch role=group aria-label="{name}"><span>{label} </span>{inputs}\n{shown}</div>\n'


def folded(summary: str, content: str, opened: bool = False) -> str:
    return f"<details{' open' * opened}><summary>{html.escape(summary)}</summary>{content}</details>\n"


def preformatted(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>\n"


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={kind}' if kind else ''}>{html.escape(text)}</p>\n"


def write(path: Path, title: str, body: str, tables: Sequence[Table], style: str = "") -> Path:
    """Write the page to PATH.html and its tables to PATH.md, PATH.tex and PATH.csv; the last has only the first table.

    Raises ConfigError if one of these files exists and was not written by this function. Existing files count as
    written by it if PATH.html contains the marker.
    """
    stem = path.name.removesuffix(".html")
    page, markdown, latex, table = (path.with_name(stem + ending) for ending in (".html", ".md", ".tex", ".csv"))
    ours = page.is_file() and MARKER in page.read_text(errors="replace")[:200]
    existing = [one for one in (page, markdown, latex, table) if one.exists()]
    named = ", ".join(map(str, existing))
    require(ours or not existing, f"Refusing to overwrite {named}, not written as a report: give another --out.")
    write_text(page, document(title, body, style=style))
    write_text(markdown, visible(f"# {as_markdown(title)}\n\n" + "\n".join(table.markdown() for table in tables)))
    write_text(latex, visible("\n".join(table.latex() for table in tables)))
    write_text(table, visible(tables[0].csv() if tables else ""))
    return page
