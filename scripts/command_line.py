"""The command line that all scripts share: overrides among options, and bad input as one sentence.

`kintsugi NAME` and `python -m scripts.NAME` run the same code. Help texts are written for the first form and shown in
the form that was typed.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from research.config import ConfigError, Experiment, Generation, Model, override, require
from research.config.base import closest, sentence
from research.storage import output, stop

# The class that has the fields of each kind of override.
CONFIG, GENERATION, MODEL = "--config.", "--generation.", "--model."
SCHEMAS = {CONFIG: Experiment, GENERATION: Generation, MODEL: Model}

EXPERIMENT_HELP = "FILE.py or FILE.py:SIZE, a Python file with get_config(); it is run, so use only files you trust"


class Parser(argparse.ArgumentParser):
    """A parser whose messages quote no value whole that is long."""

    def error(self, message: str) -> NoReturn:
        super().error(sentence(message))


def parser(name: str, description: str | None, epilog: str = "") -> argparse.ArgumentParser:
    """Make a parser for the script of that name in scripts/."""
    return Parser(
        prog=as_typed(f"kintsugi {name}"),
        description=as_typed(description or ""),
        epilog=as_typed(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_bad_bytes(known: argparse.ArgumentParser) -> None:
    """Add the option for lines that are not UTF-8."""
    known.add_argument(
        "--bad_bytes",
        choices=("refuse", "replace"),
        default="refuse",
        help="bytes that are not UTF-8: refuse them by their offset, or replace them by U+FFFD and count (%(default)s)",
    )


def as_typed(text: str) -> str:
    """Return the text with its commands in the form in which this process was started."""
    installed = Path(sys.orig_argv[1] if len(sys.orig_argv) > 1 else "").name == "kintsugi"
    return text if installed else re.sub(r"\bkintsugi (?=[a-z])", "python -m scripts.", text)


def run(
    known: argparse.ArgumentParser,
    work: Callable[..., int | None],
    arguments: Sequence[str] | None = None,
    prefixes: Sequence[str] = (),
) -> int:
    """Parse the arguments, call `work(options, overrides of each prefix ...)` and return the exit code.

    A Ctrl-C ends the command with 130, a request to stop (where `work` listens for one) with 42.
    """
    try:
        with output.guarded(fatal=True):
            options, overrides = parse(known, sys.argv[1:] if arguments is None else arguments, prefixes)
            return work(options, *overrides) or 0
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except output.OutputError as error:
        if not error.closed:
            print(f"error: {error}.", file=sys.stderr)
        return 1
    except stop.Stopped:
        return 42
    except KeyboardInterrupt:
        return 130


def parse(
    known: argparse.ArgumentParser, arguments: Iterable[str], prefixes: Sequence[str]
) -> tuple[argparse.Namespace, list[dict[str, str]]]:
    """Return the options, and for each prefix its overrides as {dotted path: text}.

    Raises ConfigError for an unknown option and for an override of a field that does not exist.
    """
    by_prefix, rest = split(arguments, prefixes)
    for argument in rest:
        check_option(argument, known, prefixes)
    if not prefixes:
        options = known.parse_intermixed_args(rest)
        check_local(known, options)
        return options, []
    options, unknown = known.parse_known_intermixed_args(rest)
    check_local(known, options)
    override.from_arguments(unknown, prefixes[0])  # raises
    for prefix, overrides in by_prefix.items():
        override.check_overrides(SCHEMAS[prefix], overrides, values=prefix != CONFIG)
    return options, list(by_prefix.values())


def check_local(known: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Raise ConfigError for a path in a bucket where only a local one can be given."""
    for action in known._actions:
        given = getattr(options, action.dest, None)
        for path in given if isinstance(given, list) else [given]:
            remote = isinstance(path, Path) and str(path).startswith("gs:")  # Path has made one slash of two
            name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest.upper()
            require(
                not remote,
                f"{name} {str(path).replace('gs:/', 'gs://')} is in a bucket: give a path of this machine, or of a file"
                " system that it mounts; gcloud storage cp -r copies a directory of a bucket.",
            )


def split(arguments: Iterable[str], prefixes: Sequence[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Separate the overrides of each prefix, `--config.x=value` or `--config.x value`, from all other arguments."""
    by_prefix: dict[str, dict[str, str]] = {prefix: {} for prefix in prefixes}
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        prefix = next((one for one in prefixes if argument.startswith(one)), None)
        if prefix is None:
            rest.append(argument)
            continue
        name, equals, text = argument.partition("=")
        if not equals:
            text = next(waiting, "--")
            require(not text.startswith("--"), f"{name} has no value: write {name}=VALUE.")
        by_prefix[prefix][name.removeprefix(prefix)] = text
    return by_prefix, rest


def check_option(argument: str, known: argparse.ArgumentParser, prefixes: Sequence[str]) -> None:
    """Refuse a misspelt option and suggest the right one, such as --config.steps for --steps."""
    name = argument.partition("=")[0]
    options = known._option_string_actions
    if not name.startswith("--") or " " in argument or name in options:
        return
    head, dot, path = name.partition(".")
    # Names are compared without their dashes, which would make short ones look alike.
    meant = {prefix.strip("-."): prefix + path for prefix in prefixes}
    if not dot:
        meant = {field.name: prefix + field.name for prefix in prefixes for field in fields(SCHEMAS[prefix])}
        meant |= {option.lstrip("-"): option for option in options if option.startswith("--")}
    like = closest(head.lstrip("-"), meant)
    require(like is None, f"{argument} is not understood; did you mean {meant.get(like or '')}?")
