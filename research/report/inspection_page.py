"""The page of one example: its tokens, the probabilities of each target token, and every attention head's weights."""

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from research.decode.inspection import Inspection, Token
from research.model.attention_maps import AttentionPart
from research.report import page
from research.report.table import Cell, Table

Array = np.ndarray

LEVELS = 32  # shades of a picture
MOST_PIXELS = 2_000_000  # of all pictures of a part
MOST_ROWS = 6_000  # of the tables of a part's heads
LARGEST = 5  # weights of a head that are listed in words
READ = 3  # keys that a table lists for each query
NAMES: dict[AttentionPart, str] = {
    "encoder": "the encoder, inputs to inputs",
    "decoder": "the decoder, targets to targets",
    "cross": "the decoder, targets to inputs",
}
STYLE = """
.tokens { overflow-wrap: anywhere; }
.tokens > span { display: inline-block; max-width: 100%; border: 1px solid #bbb; border-radius: 3px;
  padding: 0 .15rem; margin: 0 .1rem .1rem 0; }
.tokens > .sentinel { border: 2px solid #D55E00; font-weight: 700; } .tokens > .special { border-style: dashed; }
.panel { position: relative; } .panel > .choice { position: absolute; opacity: 0; }
.heads { display: grid; gap: 3px; overflow-x: auto; align-items: center; padding: 4px 0; font-size: .75rem; }
.heads > label { aspect-ratio: 1; cursor: pointer; outline: 1px solid #999; min-width: 1.5rem; }
.heads > label, .map { background-size: 100% 100%; background-repeat: no-repeat; image-rendering: pixelated;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.stage { overflow: auto; max-height: 40rem; margin: .5rem 0; position: relative; }
.frame { display: grid; grid-template-columns: max-content max-content; font: 11px/16px ui-monospace, monospace;
  width: max-content; }
.keys { grid-column: 2; display: flex; position: sticky; top: 0; background: #fff; }
.keys > span { writing-mode: vertical-rl; transform: rotate(180deg); width: 16px; line-height: 16px; max-height: 6.5rem;
  overflow: hidden; white-space: nowrap; }
.queries { position: sticky; left: 0; background: #fff; }
.queries > span { display: block; height: 16px; max-width: 6.5rem; overflow: hidden; text-align: right;
  padding-right: 4px; white-space: nowrap; }
.frame .sentinel { font-weight: 700; color: #A03E00; } .frame .special { font-style: italic; }
.head { display: none; }
@media print { .stage { max-height: none; } }
"""


def write(path: Path, title: str, inspection: Inspection, note: str = "") -> Path:
    """Write PATH.html, and the table of probabilities as .md, .csv and .tex. Raises ConfigError as `page.write`."""
    table = predictions_table(inspection)
    parts = [(part, *panel(inspection, part)) for part in inspection.attention]
    switch = page.switch("part", "Attention of", [(NAMES[part], content) for part, content, _ in parts])
    legend = (
        "A row is a query and shows how much it reads of each key: white is 0, dark blue is 1, and the shade goes with"
        " the square root of the weight. Choose a layer's head by its picture, or with the arrow keys. Layers and heads"
        " are counted from 0, as in model.attention(source, target, layer=0), which gives the weights in Python."
    )
    body = "".join(
        (
            page.paragraph(summary(inspection), "state"),
            page.paragraph(note, "note") if note else "",
            page.section("Inputs", tokens_line(inspection.inputs)),
            page.section("Targets", tokens_line(inspection.targets)),
            page.section("Next tokens", table),
            page.section("Attention", page.paragraph(legend, "note"), switch),
        )
    )
    return page.write(path, title, body, [table], STYLE + "".join(style for _, _, style in parts))


def summary(inspection: Inspection) -> str:
    nats = [-one.log_probability for one in inspection.predictions]
    first = sum(one.rank == 1 for one in inspection.predictions)
    return (
        f"{len(inspection.inputs):,} input tokens and {len(nats):,} target tokens, of which {first:,} are the most"
        f" probable; {np.mean(nats):.4f} nats a target token."
    )


def tokens_line(tokens: Sequence[Token]) -> str:
    shown = "".join(
        f'<span class={one.kind} title="{number}: {one.kind}">{html.escape(one.text)}</span>'
        for number, one in enumerate(tokens)
    )
    return f"<p class=tokens>{shown}</p>\n"


def predictions_table(inspection: Inspection) -> Table:
    """Make a table of the target tokens: probability, rank and the most probable tokens at each position."""
    count = len(inspection.predictions[0].best) if inspection.predictions else 0
    header = ("position", "target", "kind", "probability", "nats", "rank")
    rows = []
    for number, (target, one) in enumerate(zip(inspection.targets, inspection.predictions, strict=True)):
        nats = -one.log_probability
        row = [Cell(str(number)), Cell(target.text, one.rank == 1), Cell(target.kind), probability(np.exp(-nats))]
        row += [Cell(f"{nats:.4f}", raw=repr(nats)), Cell(f"{one.rank:,}", raw=str(one.rank))]
        choices = [f"{token.text} {probability(share).text}" for token, share in one.best]
        raw = [f"{token.text} {share!r}" for token, share in one.best]
        rows.append([*row, *(Cell(text, raw=exact) for text, exact in zip(choices, raw, strict=True))])
    note = (
        "The model's own distribution of each target token, given the inputs and the target tokens before it. A target"
        " that is the model's first choice is marked as best."
    )
    return Table("Next tokens", (*header, *(f"choice {number}" for number in range(1, count + 1))), rows, note)


def probability(share: float) -> Cell:
    return Cell(f"{share:.4f}" if share >= 1e-4 else f"{share:.1e}", raw=repr(float(share)))


# --- Attention --------------------------------------------------------------------------------------------------------


def panel(inspection: Inspection, part: AttentionPart) -> tuple[str, str]:
    """Make the pictures of a part's heads, of which one is chosen, and the style that they need."""
    maps, (queries, keys) = inspection.attention[part], inspection.tokens(part)
    layers, heads, t, _ = maps.shape
    block = max(1, int(np.ceil(np.sqrt(maps.size / MOST_PIXELS))))
    names = [(layer, head, f"{part}-{layer}-{head}") for layer in range(layers) for head in range(heads)]
    inputs = "".join(
        f'<input class=choice type=radio name="{part}-head" id="{name}"{"" if number else " checked"}>'
        for number, (_, _, name) in enumerate(names)
    )
    labels = []
    for layer, head, name in names:
        labels += [f"<span>layer {layer}</span>"] * (head == 0)
        title = f"layer {layer}, head {head}"
        labels.append(f'<label for="{name}" title="{title}"><span class=unseen>{title}</span></label>')
    tables = layers * heads * t <= MOST_ROWS
    texts = [
        f'<div class="head {name}">{head_text(f"Layer {layer}, head {head}", maps[layer, head], queries, keys, tables)}'
        "</div>\n"
        for layer, head, name in names
    ]
    frame = (
        f'<div class=stage tabindex=0 role=region aria-label="Weights of the chosen head"><div class=frame>'
        f"<div class=keys>{_labels(keys)}</div><div class=queries>{_labels(queries)}</div>"
        f'<div class="map {part}-map" role=img aria-label="Picture of the weights; the text below it has the largest."'
        "></div></div></div>\n"
    )
    blocks = f"A pixel of a picture is the largest of {block} x {block} weights. " * (block > 1)
    left_out = "The tables of what each position reads are left out, as they would be too long." * (not tables)
    note = page.paragraph(blocks + left_out, "note") if blocks + left_out else ""
    content = f'{inputs}<div class="heads {part}-heads">{"".join(labels)}</div>\n{frame}{"".join(texts)}{note}'
    return content, _style(part, maps, block, names)


def _style(part: AttentionPart, maps: Float[Array, "l h t s"], block: int, names: list[tuple[int, int, str]]) -> str:
    """Make the rules that show the chosen head; every picture is in them once."""
    _, heads, t, s = maps.shape
    width, height = (16 * block * -(-length // block) for length in (s, t))
    rules = [
        f".{part}-heads {{ grid-template-columns: 4rem repeat({heads}, minmax(1.5rem, 4.5rem)); }}\n"
        f".{part}-map {{ width: {16 * s}px; height: {16 * t}px; background-size: {width}px {height}px; }}\n"
    ]
    for layer, head, name in names:
        data = base64.b64encode(png(shades(pooled(maps[layer, head], block)))).decode()
        rules.append(
            f":root {{ --{name}: url(data:image/png;base64,{data}); }}\n"
            f"[for={name}] {{ background-image: var(--{name}); }}\n"
            f"#{name}:checked ~ .stage .map {{ background-image: var(--{name}); }}\n"
            f"#{name}:checked ~ .{name} {{ display: block; }}\n"
            f"#{name}:checked ~ .heads [for={name}] {{ outline: 3px solid #D55E00; }}\n"
            f"#{name}:focus-visible ~ .heads [for={name}] {{ outline: 4px solid #000; }}\n"
        )
    return "".join(rules)


def _labels(tokens: Sequence[Token]) -> str:
    return "".join(
        f'<span class={one.kind} title="{number}: {html.escape(one.text, quote=True)}">{html.escape(one.text)}</span>'
        for number, one in enumerate(tokens)
    )


def head_text(
    name: str, weights: Float[Array, "t s"], queries: Sequence[Token], keys: Sequence[Token], table: bool
) -> str:
    """Describe a head: its largest weights in words and, where there is room, what each query reads most."""
    flat = weights.ravel()
    strongest = np.argpartition(-flat, min(LARGEST, flat.size) - 1)[:LARGEST]
    pairs = [divmod(int(index), weights.shape[1]) for index in strongest[np.argsort(-flat[strongest])]]
    largest = "; ".join(f"{queries[t].text} ({t}) reads {keys[s].text} ({s}): {weights[t, s]:.4f}" for t, s in pairs)
    text = page.paragraph(f"{name}. Largest weights: {largest}.")
    if not table:
        return text
    order = np.argsort(-weights, axis=1, kind="stable")[:, :READ]
    rows = [
        [Cell(str(t)), Cell(queries[t].text)]
        + [cell for s in most for cell in (Cell(f"{keys[s].text} ({s})"), Cell(f"{weights[t, s]:.4f}"))]
        for t, most in enumerate(order.tolist())
    ]
    header = [each for number in range(1, order.shape[1] + 1) for each in (f"reads {number}", f"weight {number}")]
    shown = Table(f"{name}: what each position reads most", ("position", "token", *header), rows)
    return text + page.folded("What each position reads most", shown.html())


def pooled(weights: Float[Array, "t s"], block: int) -> Float[Array, "y x"]:
    """Return the largest of each block of weights; blocks at the ends may be smaller."""
    t, s = weights.shape
    padded = np.pad(weights, ((0, -t % block), (0, -s % block)))
    return padded.reshape(-(-t // block), block, -(-s // block), block).max((1, 3))


def shades(weights: Float[Array, "y x"]) -> UInt8[Array, "y x"]:
    return np.round((LEVELS - 1) * np.sqrt(np.clip(weights, 0, 1))).astype(np.uint8)


def png(indices: UInt8[Array, "y x"]) -> bytes:
    """Write a picture whose colours run from white, 0, to dark blue, LEVELS - 1."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = indices.shape
    part = np.linspace(0, 1, LEVELS)[:, None]
    palette = np.round((1 - part) * [255, 255, 255] + part * [8, 29, 88]).astype(np.uint8)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), indices], axis=1)  # each after its filter, none
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    content = zlib.compress(lines.tobytes())
    chunks = ((b"IHDR", head), (b"PLTE", palette.tobytes()), (b"IDAT", content), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)
