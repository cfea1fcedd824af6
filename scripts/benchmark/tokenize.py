"""Measure how fast one core turns text into cached tokens: python -m scripts.benchmark.tokenize

It reads, tokenises, hashes and writes as every process of scripts.prepare does: with a SentencePiece unigram model and
with a byte-level BPE, each trained on this text before the clock starts. The core-hours of C4 and mC4 are extrapolated.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"  # before tokenizers is imported

from research import TFDS, PlainText
from research.config import ByteLevelBPE, ConfigError, SentencePiece, TrainedSentencePiece, require
from research.data.corpora.documents import Documents, open_documents
from research.data.corpora.tokens import Recipe
from research.data.tokenizer import Tokenizer, open_tokenizer, sentencepiece, train_sentencepiece
from research.storage.files import write_json
from research.storage.run_directory import commit
from scripts import command_line
from scripts.benchmark.rounds import cpu_model

C4_BYTES = 750e9  # Raffel et al. 2020, section 2.2: about 750 GB of text
MC4_TOKENS = 6.3e12  # Xue et al. 2021, section 3.1, in mT5's vocabulary of 250,112 ids, which take 4 bytes each

EPILOG = """
reading the table
  Figures are medians over the rounds, in which the tokenizers take turns; the smallest and largest are in brackets. C4
  and mC4 are extrapolated: C4 by its bytes, mC4 by its tokens, as if its text in a hundred languages and mT5's
  vocabulary were as fast. On disk a token takes two bytes up to 65,536 ids, four above.
"""


def main(arguments: list[str] | None = None) -> int:
    made = command_line.parser("benchmark.tokenize", __doc__, EPILOG)
    made.add_argument("--text", help="files of text, blank lines between documents (default: the embedded corpus)")
    made.add_argument("--unigram", type=int, default=32_000, help="pieces of the unigram model (%(default)s)")
    made.add_argument("--bpe", type=int, default=50_265, help="ids of the byte-level BPE (%(default)s)")
    made.add_argument("--rounds", type=int, default=5, help="number of rounds (%(default)s)")
    made.add_argument("--json", type=Path, help="write all rounds into this file")
    options = made.parse_args(arguments)
    try:
        require(options.rounds > 0, f"--rounds is {options.rounds}: it must be above 0.")
        result = benchmark(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    if options.json:
        write_json(options.json, result)
    return 0


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    corpus = TFDS("python_docs") if options.text is None else PlainText(options.text, held_out=options.text)
    documents = open_documents(corpus, "train")
    sentencepiece.THREADS = 1
    with tempfile.TemporaryDirectory(prefix="tokenize-") as folder:
        tokenizers = {
            f"unigram {options.unigram:,}": trained_unigram(documents, Path(folder), options.unigram),
            f"byte-level BPE {options.bpe:,}": trained_bpe(documents, Path(folder), options.bpe),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in tokenizers}
        for number in range(options.rounds):
            for name, tokenizer in tokenizers.items():
                os.environ["KINTSUGI_CACHE"] = f"{folder}/{number}-{len(name)}"
                began = time.perf_counter()
                tokens = Recipe(documents, tokenizer).stream().tokens
                rounds[name].append({"tokens": len(tokens), "seconds": time.perf_counter() - began})
    size = sum(len(documents[index].encode()) for index in range(len(documents)))
    sizes = {name: tokenizer.size for name, tokenizer in tokenizers.items()}
    machine = {"processor": cpu_model(), "python": platform.python_version(), "commit": commit()}
    return {"bytes": size, "documents": len(documents), "ids": sizes, "rounds": rounds, **machine}


def trained_unigram(documents: Documents, folder: Path, pieces: int) -> Tokenizer:
    model = folder / "unigram.model"
    texts = [documents[index] for index in range(len(documents))]
    train_sentencepiece(texts, TrainedSentencePiece(pieces), model)
    return open_tokenizer(SentencePiece(str(model), sentinels=100))


def trained_bpe(documents: Documents, folder: Path, size: int) -> Tokenizer:
    import tokenizers

    made = tokenizers.ByteLevelBPETokenizer()
    texts = (documents[index] for index in range(len(documents)))
    made.train_from_iterator(
        texts, size, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], show_progress=False
    )
    made.save_model(str(folder))
    return open_tokenizer(ByteLevelBPE(str(folder)))


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['bytes'] / 1e6:.1f} MB of {result['documents']:,} documents; one core of {result['processor']}", "",
        "| tokenizer | tokens/s | MB/s | C4: core-hours | GB | mC4: core-hours | TB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, rounds in result["rounds"].items():
        rates = sorted(round["tokens"] / round["seconds"] for round in rounds)
        rate, tokens_a_byte = statistics.median(rates), rounds[0]["tokens"] / result["bytes"]
        c4 = C4_BYTES * tokens_a_byte
        width = 2 if result["ids"][name] <= 2**16 else 4
        cells = [
            name,
            f"{rate:,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})",
            f"{rate / tokens_a_byte / 1e6:.2f}",
            f"{c4 / rate / 3600:,.0f}",
            f"{c4 * width / 1e9:,.0f}",
            f"{MC4_TOKENS / rate / 3600:,.0f}",
            f"{MC4_TOKENS * 4 / 1e12:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
