"""The card of a model on the Hugging Face Hub, README.md: made from the record of the run that trained it."""

import json
from typing import Any

from research.report.record import RunRecord
from research.report.run_page import scores_table, state, summary_table

PLOT = "loss.png"  # of the run directory
LIBRARY = "transformers"  # the library that loads the files


def write(record: RunRecord, name: str, licence: str | None, languages: list[str]) -> str:
    """Write the card of a model named `name` on the hub, in Markdown with YAML in front."""
    parts = [
        front_matter(record, licence, languages),
        f"# {name.split('/')[-1]}",
        f"{_described(record)} It was trained with Kintsugi ({state(record)}).",
        _section("Scores", scores_table(record).markdown() if scores_table(record).rows else ""),
        f"![Loss against the step]({PLOT})" if (record.directory / PLOT).is_file() else "",
        _section("Use", usage(name)),
        _section("Training", summary_table(record).markdown() if record.launch else ""),
        _section("To repeat it", _repeat(record)),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def front_matter(record: RunRecord, licence: str | None, languages: list[str]) -> str:
    """Make the card's YAML; JSON values are YAML too."""
    fields: dict[str, Any] = {"library_name": LIBRARY, "tags": ["kintsugi", "encoder-decoder"]}
    fields |= {"license": licence} if licence else {}
    fields |= {"language": languages} if languages else {}
    base = record.config.weights or ""
    fields |= {"base_model": base.removeprefix("hf://").partition("@")[0]} if base.startswith("hf://") else {}
    lines = [f"{field}: {json.dumps(value)}" for field, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def usage(name: str) -> str:
    code = (
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f'model = AutoModelForSeq2SeqLM.from_pretrained("{name}")',
    )
    lines = ["```python", *code, "```", "", "```bash", f'kintsugi generate hf://{name} "A line of text."', "```"]
    return "\n".join(lines)


def _described(record: RunRecord) -> str:
    model = record.config.model
    size = record.launch.get("model", f"{model.encoder_layers} + {model.decoder_layers} layers of width {model.width}")
    return f"An encoder-decoder model: {size}."


def _section(title: str, content: str) -> str:
    return f"## {title}\n\n{content}" if content else ""


def _repeat(record: RunRecord) -> str:
    if not record.starts:
        return ""
    last = record.starts[-1]
    packages = " ".join(f"{name}=={version}" for name, version in last.get("packages", {}).items())
    return (
        f"Commit {last.get('commit', 'unknown')} of Kintsugi, Python {last.get('python', '?')}, {packages}:\n\n"
        f"```bash\n{last.get('command', '')}\n```"
    )
