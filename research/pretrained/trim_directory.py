"""A Hugging Face directory with a trimmed vocabulary, and the table of what that saves."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from research.config import Model
from research.data.tokenizer import Tokenizer
from research.model.flops import parameter_count
from research.model.transformer import abstract_params
from research.pretrained.files import new_directory, shards
from research.pretrained.rows import open_directory, read_settings, write_directory
from research.pretrained.trim import Trimmed, Use, check_equal, count_use, dropped_languages, trim_tokenizer
from research.storage.progress import Progress

SCRIPTS_SHOWN = 8


def trim_directory(
    directory: Path, out: Path, texts: Callable[[], Iterable[str]], count: int, languages: Sequence[str] = ()
) -> list[str]:
    """Write the model at `directory` to the new directory `out` with the ids that `texts()` use; return a table.

    `count` is the number of texts, for the progress.

    Raises:
        ConfigError: a directory cannot serve, its vocabulary cannot be trimmed, or a special id would be dropped.
    """
    model, tokenizer = open_directory(directory)
    dropped = dropped_languages(tokenizer, languages, str(directory))
    read_settings(directory, lambda id: None if id in dropped else id)  # raises before the corpus is read
    with Progress("Reading the corpus", count, "texts") as progress:
        use = count_use(tokenizer, texts(), progress)
    trimmed = trim_tokenizer(tokenizer, use.ids, str(directory), languages)
    check_equal(tokenizer, trimmed, texts())
    new = {old: id for id, old in enumerate(trimmed.kept.tolist())}
    with new_directory(out) as unfinished:
        write_directory(directory, unfinished, trimmed.tokenizer, lambda rows: rows[trimmed.kept], len(new), new.get)
        smaller, _ = open_directory(unfinished)  # raises if what was written does not read back
    return savings(directory, out, model, smaller, tokenizer, trimmed, use)


def savings(
    directory: Path, out: Path, model: Model, smaller: Model, tokenizer: Tokenizer, trimmed: Trimmed, use: Use
) -> list[str]:
    """Return the lines of a table: rows, parameters and bytes before and after, and rows by script."""
    figures = {
        "rows": [model.vocab_size, smaller.vocab_size],
        "ids of the tokenizer": [tokenizer.size, trimmed.tokenizer.size],
        "parameters": [parameter_count(abstract_params(each)) for each in (model, smaller)],
        "bytes of weights": [sum(file.stat().st_size for file in shards(path)) for path in (directory, out)],
    }
    before, after = (scripts(each) for each in (tokenizer, trimmed.tokenizer))
    figures |= {f"pieces, {name}": [rows, after[name]] for name, rows in before.most_common(SCRIPTS_SHOWN)}
    lines = [f"{'':<24}{'before':>16}{'after':>16}"]
    lines += [f"{name:<24}{old:>16,}{new:>16,}  {new / old:7.2%}" for name, (old, new) in figures.items()]
    rate = f"{use.tokens / max(use.characters, 1):.4f} tokens a character before and after"
    lines.append(f"{use.texts:,} texts of {use.characters:,} characters: {rate}, {use.unknown:,} unknown")
    return lines


def scripts(tokenizer: Tokenizer) -> Counter[str]:
    """Count the ids of text by the script of their first letter, in Unicode's names."""
    found: Counter[str] = Counter()
    for surface in tokenizer.token_bytes:
        text = surface.decode("utf-8", errors="ignore")
        letter = next((character for character in text if character.isalpha()), None)
        if text.strip():
            found[unicodedata.name(letter, "OTHER").split()[0].title() if letter else "no letter"] += 1
    return found
