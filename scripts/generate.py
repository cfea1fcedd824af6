"""Generate text from text with any trained model: kintsugi generate MODEL "A line of text." """

import argparse
import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from research.config import Mesh, override, require
from research.storage.bucket import any_path
from research.storage.lines import Line, is_unicode, json_objects, read_text_lines
from research.storage.progress import Progress
from scripts import command_line

EPILOG = """
models
  A run directory, its newest checkpoint (or runs/NAME/checkpoints/STEP or /best), a Hugging Face directory, a T5X
  checkpoint, Marian's .npz, fairseq's .pt. T5X and fairseq need --tokenizer; Marian's vocabularies lie beside its .npz.

how tokens are chosen
  By the model's files; any field of Generation (research/config/generation.py) can be changed:
    --generation.method='Beam(5, length_penalty=Power(1.0))' --generation.max_length=200 --generation.outputs=5
    --generation.method='Sampling(temperature=0.8, top_p=0.95)' --seed=1
    --generation.no_repeat_ngram=3 --generation.min_length=56 --generation.repetition_penalty=1.2

examples
  kintsugi generate opus-mt-en-de "How are you?"
  kintsugi generate mbart-50 --source_language=en_XX --target_language=de_DE --input=en.txt --output=de.txt
  kintsugi generate bart-large-cnn --input=articles.jsonl --output=summaries.jsonl --scores
  head -n 100 en.txt | kintsugi generate opus-mt-en-de > de.txt
  kintsugi generate runs/quickstart "The <extra_id_0> of a list." --interactive

files
  --input=- reads standard input, which is also read if it is piped and neither lines nor --input are given. A file that
  ends in .jsonl has a JSON object on each line: its "text" is read, and the output has the whole object with "outputs",
  each with "text" and "score". Finished lines are kept in OUTPUT.partial until all are finished; the same command
  continues from there.
"""


def main(arguments: list[str] | None = None) -> int:
    return command_line.run(parser(), run, arguments, (command_line.GENERATION,))


def parser() -> argparse.ArgumentParser:
    made = command_line.parser("generate", __doc__, EPILOG)
    add_model_options(made)
    add_language_options(made)
    made.add_argument("text", nargs="*", help="lines of text")
    made.add_argument("--input", help="a file of lines, or of JSON objects (.jsonl); - for standard input")
    command_line.add_bad_bytes(made)
    made.add_argument("--output", type=Path, help="a new file for the outputs (standard output)")
    made.add_argument("--scores", action="store_true", help="write the log-probability of each output, in nats")
    made.add_argument(
        "--strict", action="store_true", help="refuse empty and overlong lines; without it a note counts them"
    )
    made.add_argument("--interactive", action="store_true", help="read lines and answer each at once")
    made.add_argument("--seed", type=int, default=0, help="seed of sampling (%(default)s)")
    return made


def add_language_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--source_language", help="code of the source language, such as en_XX; >>deu<< for Marian")
    made.add_argument("--target_language", help="code of the target language (mBART, M2M-100)")


def add_model_options(made: argparse.ArgumentParser, optional: bool = False) -> None:
    made.add_argument("model", type=any_path, nargs="?" if optional else None, help="path of the weights; see below")
    made.add_argument("--tokenizer", type=Path, help="a directory or SentencePiece model, where the model has none")
    made.add_argument("--adapter", type=Path, help="a directory in PEFT's format, with an adapter of the model")
    made.add_argument("--batch_size", type=int, default=32, help="lines decoded at once (%(default)s)")
    made.add_argument("--compute", choices=("float32", "bfloat16"), default="float32", help="(%(default)s)")
    made.add_argument("--mesh", default="Mesh()", help="devices along each axis, as in 'Mesh(tensor=4)' (all: data)")


def open_generator(options: argparse.Namespace, overrides: dict[str, str], **settings: Any) -> Any:
    """Open the model of the options as a Generator, with its parameters on the mesh."""
    opened = open_model(options)
    opened.tokenizer.source([""], options.source_language)  # refuses an unknown language
    generation = opened.generation(options.target_language, overrides)
    return opened.generator(generation, (options.source_language, options.target_language), **settings)


def open_model(options: argparse.Namespace) -> Any:
    """Open the model of the options as a LoadedModel; its parameters are not read yet."""
    from research.decode import loaded_model  # after the options are checked: importing JAX takes seconds
    from research.train.compilation import enable_compilation_cache

    enable_compilation_cache()
    require(options.batch_size > 0, f"--batch_size is {options.batch_size}: it must be above 0.")
    return loaded_model.open_model(
        options.model,
        tokenizer=options.tokenizer,
        adapter=options.adapter,
        batch_size=options.batch_size,
        compute=options.compute,
        mesh=override.parse(Mesh, options.mesh, "--mesh"),
    )


def run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from research.storage.journal import check_new  # as below

    piped = not (options.text or options.input or options.interactive or sys.stdin is None or sys.stdin.isatty())
    if piped:
        options.input = "-"
    given = bool(options.text) + (options.input is not None)
    require(given == 1 or (options.interactive and not given), "Give lines of text, or --input, and not both.")
    require(options.output is None or bool(given), "--output needs lines of text or --input.")
    require(0 <= options.seed < 2**32, f"--seed is {options.seed}: it must lie in [0, 2**32).")
    check_new(options.output)
    rows = list(read(options)) if given else []
    require(bool(rows) or not piped, "Standard input has no lines: give lines of text, or --input.")
    if options.interactive:
        options.batch_size = 1
    elif rows:
        options.batch_size = min(options.batch_size, len(rows))
    generator = open_generator(options, overrides, scores=options.scores, seed=options.seed)
    if rows:
        complete(generator, rows, options)
    if options.interactive:
        converse(generator, options)
    return 0


def read(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the inputs as JSON objects with "text"."""
    if options.text:
        for number, line in enumerate(options.text, 1):
            require(is_unicode(line), f"Line {number} of the arguments is not UTF-8 text.")
            yield {"text": line}
    elif options.input.endswith(".jsonl"):
        yield from texts_of(options, "text")
    else:
        yield from ({"text": line.content} for line in lines_of(options))


def lines_of(options: argparse.Namespace) -> Iterator[Line]:
    """Yield the lines of --input, which is a file, or - for standard input."""
    require(options.input == "-" or Path(options.input).is_file(), f"--input {options.input}: there is no such file.")
    return read_text_lines(options.input, options.bad_bytes)


def texts_of(options: argparse.Namespace, *keys: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of --input, one a line, each with text under the keys; blank lines are skipped."""
    for _, where, row in json_objects(options.input, lines_of(options)):
        fits = all(isinstance(row.get(key), str) for key in keys)
        require(fits, f"{where} is not a JSON object with text under {' and '.join(keys)}.")
        for key in keys:
            require(is_unicode(row[key]), f'{where}: the value of "{key}" holds half of a surrogate pair.')
        yield row


def complete(generator: Any, rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Decode every row, keep each finished batch, and write all outputs in order at the end."""
    framed, notes = generator.prepare([row["text"] for row in rows], options.strict)
    if str(notes):
        print(f"note: {notes}.", file=sys.stderr)
    progress = Progress("Generating", len(rows), "lines")
    with open_journal(options.output, generator, framed) as journal, progress:
        progress.advance(len(journal.done))
        for outputs in generator.run(framed, frozenset(journal.done)):
            journal.add({number: [one._asdict() for one in hypotheses] for number, hypotheses in outputs.items()})
            progress.advance(len(outputs))
        say_unfinished(generator, (one for hypotheses in journal.done.values() for one in hypotheses))
        as_json = (options.output or Path("-")).suffix == ".jsonl"
        write = jsonl if as_json else plain
        journal.finish(line for number, row in enumerate(rows) for line in write(row, journal.done[number], options))


def say_unfinished(generator: Any, outputs: Iterable[dict[str, Any]]) -> None:
    if cut := generator.note_unfinished(output["tokens"] for output in outputs):
        print(f"note: {cut}.", file=sys.stderr)


def open_journal(output: Path | None, generator: Any, lines: Any) -> Any:
    """Open the journal of a job. The job's identity is computed only for an output file, which must match it."""
    from research.storage.journal import Journal

    return Journal(output, None if output is None else [*generator.identity(), lines])


def plain(row: dict[str, Any], outputs: list[dict[str, Any]], options: argparse.Namespace) -> list[str]:
    scores = (f"{output['score']:.4f}\t" if options.scores else "" for output in outputs)
    return [score + one_line(output["text"]) for score, output in zip(scores, outputs, strict=True)]


def one_line(text: str) -> str:
    """Replace the ends of lines in an output by spaces."""
    return re.sub("\r\n|\n|\r", " ", text.rstrip("\r\n"))


def jsonl(row: dict[str, Any], outputs: list[dict[str, Any]], options: argparse.Namespace) -> list[str]:
    from research.storage.files import json_text

    kept = ("text", "score") if options.scores else ("text",)
    return [json_text({**row, "outputs": [{name: one[name] for name in kept} for one in outputs]})]


def converse(generator: Any, options: argparse.Namespace) -> None:
    print("Type a line and press Enter; an empty line or Ctrl-D ends.", file=sys.stderr)
    for line in typed_lines(options):
        if not line:
            return
        framed, notes = generator.prepare([line])
        if str(notes):
            print(f"note: {notes}.", file=sys.stderr)
        for outputs in generator.run(framed):
            written = [one._asdict() for one in outputs[0]]
            for text in plain({}, written, options):
                print(text, flush=True)
            say_unfinished(generator, written)


def typed_lines(options: argparse.Namespace) -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from (line.text.strip() for line in read_text_lines("-", options.bad_bytes))
        return
    with contextlib.suppress(EOFError):
        while True:
            yield input("> ").strip()


if __name__ == "__main__":
    sys.exit(main())
