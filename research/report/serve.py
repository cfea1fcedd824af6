"""Report pages served to browsers of this machine, live while runs continue; run directories are only read."""

import contextlib
import functools
import hashlib
import os
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from research.config import ConfigError, require
from research.report import page, record, run_page, sweep_page
from research.report.plot import Number
from research.report.record import is_number
from research.report.table import Cell, Table
from research.storage import run_directory
from research.storage.console import amount_of, clock
from research.storage.files import parse_lines

EVERY = 5  # seconds between two questions of an open page
SHARE = 10  # a page is kept for this many times the time that it took to make
TAIL = 1 << 16  # bytes of metrics.jsonl that the list of runs reads
STALLED = 600.0  # seconds without a line of metrics, and not fewer than those of ten lines
HOSTS = ("127.0.0.1", "localhost")
FAILED = ("failed", "bad input", "hung", "not finite", "host lost")


# --- Runs below a directory -------------------------------------------------------------------------------------------


def found(root: Path) -> Iterator[Path]:
    """Find the directories of sweeps and runs in a directory, itself included. Nothing inside a run is looked at."""
    for folder, names, files in os.walk(root):
        if "config.json" in files:
            names.clear()
        names[:] = sorted(name for name in names if not name.startswith("."))
        if "config.json" in files or "sweep.json" in files:
            yield Path(folder)


class Status(NamedTuple):
    """The progress of a run, from the ends of its files."""

    state: str
    step: int
    steps: int
    loss: Number | None
    held_out: Number | None
    left: Number | None  # seconds

    @classmethod
    def of(cls, directory: Path) -> "Status":
        lines = last_lines(directory / "metrics.jsonl")
        trained = [line for line in lines if is_number(line.get("step_seconds")) and is_number(line.get("steps"))]
        step = max((line["step"] for line in lines), default=0)
        steps = int(record.read_object(directory / "config.json").get("steps") or 0)
        seconds = [line["step_seconds"] for line in trained[-10:]]
        left = (steps - step) * sum(seconds) / len(seconds) if seconds else None
        every = trained[-1]["steps"] * trained[-1]["step_seconds"] if trained else 0.0
        state = _state(directory, max(STALLED, 10 * every))
        running = state in ("running", "stalled")
        return cls(state, step, steps, _last(lines, "nll"), _last(lines, "held_out_loss"), left if running else None)


def _state(directory: Path, patience: Number) -> str:
    state = str(record.read_object(directory / "RESULT.json").get("status", "not started"))
    if state != "running":
        return state
    if not run_directory.is_held(directory):
        return "interrupted"
    written = max((of.st_mtime for of in record.shown_files(directory).values()), default=0.0)
    return "stalled" if time.time() - written > patience else state


def last_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines with a step in the last TAIL bytes of a file; none without a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            content = file.read()
    except OSError:
        return []
    return [line for line in parse_lines(content).values if isinstance(line.get("step"), int)]


def _last(lines: Sequence[dict[str, Any]], name: str) -> Number | None:
    return next((line[name] for line in reversed(lines) if is_number(line.get(name))), None)


# --- Pages ------------------------------------------------------------------------------------------------------------


class Made(NamedTuple):
    content: bytes
    tag: str
    sources: object  # what the files were like
    until: float  # when it may be made again


class Site:
    """The pages of a directory by address: "/" lists its runs and sweeps, "/NAME/report.html" is the page of one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pages: dict[str, Made] = {}
        self.lock = threading.Lock()  # matplotlib draws in one thread at a time

    def get(self, address: str) -> Made | None:
        """Return a page; None without such a one. It is made again if its files have changed, and not too often."""
        with self.lock:
            directories = {self.address(directory): directory for directory in found(self.root)}
            if address != "/" and address not in directories:
                return None
            before = self.pages.get(address)
            if before is not None and time.monotonic() < before.until:
                return before
            directory = directories.get(address)
            sources = None if directory is None else _sources(directory)
            if before is not None and sources is not None and before.sources == sources:
                return before
            started = time.monotonic()
            title, body = self.index(list(directories.values())) if directory is None else _page(directory)
            content = page.document(title, body, EVERY).encode(errors="backslashreplace")
            ended = time.monotonic()
            until = ended + max(EVERY / 2, SHARE * (ended - started))
            self.pages[address] = Made(content, f'"{hashlib.sha256(content).hexdigest()}"', sources, until)
            return self.pages[address]

    def address(self, directory: Path) -> str:
        inside = directory.relative_to(self.root).as_posix()
        return "/report.html" if inside == "." else f"/{inside}/report.html"

    def index(self, directories: Sequence[Path]) -> tuple[str, str]:
        sweeps = [one for one in directories if (one / "sweep.json").is_file()]
        runs = {one: Status.of(one) for one in directories if (one / "config.json").is_file()}
        rows = [self._run(directory, status) for directory, status in runs.items()]
        swept = [
            self._sweep(sweep, [status.state for run, status in runs.items() if sweep in run.parents])
            for sweep in sweeps
        ]
        header = ("run", "state", "step", "training nll", "held-out loss", "time left")
        tables = (
            Table("Sweeps", ("sweep", "runs started", "running", "done", "failed"), swept),
            Table("Runs", header, rows),
        )
        running = sum(status.state == "running" for status in runs.values())
        summary = page.paragraph(f"{amount_of(len(runs), 'run')}, {running} running", "state")
        return f"Runs in {self.root}", summary + "".join(page.section(one.title, one) for one in tables if one.rows)

    def _link(self, directory: Path) -> Cell:
        name = directory.relative_to(self.root).as_posix()
        return Cell(directory.name if name == "." else name, link=urllib.parse.quote(self.address(directory)))

    def _run(self, directory: Path, status: Status) -> list[Cell]:
        numbers = [Cell("-") if value is None else Cell(f"{value:.4f}") for value in (status.loss, status.held_out)]
        left = Cell("-" if status.left is None else clock(status.left))
        return [
            self._link(directory),
            Cell(status.state),
            Cell(f"{status.step:,} of {status.steps:,}"),
            *numbers,
            left,
        ]

    def _sweep(self, directory: Path, states: Sequence[str]) -> list[Cell]:
        counts = [len(states), states.count("running"), states.count("done"), sum(states.count(one) for one in FAILED)]
        return [self._link(directory), *(Cell(str(count)) for count in counts)]


def _sources(directory: Path) -> object:
    """Describe the files that a page is made from, so that a change is seen."""
    runs = [path.parent for path in directory.glob("*/config.json")] if (directory / "sweep.json").is_file() else []
    states = [state for run in (directory, *runs) for state in record.shown_files(run).items()]
    return [(path, of.st_mtime_ns, of.st_size) for path, of in states], [run_directory.is_held(run) for run in runs]


def _page(directory: Path) -> tuple[str, str]:
    name = directory.absolute().name
    try:
        if (directory / "sweep.json").is_file():
            title, body = f"Sweep {name}", sweep_page.current(directory)
        else:
            read = record.read(directory)
            title, body = run_page.title(read), run_page.body(read)
    except (ConfigError, OSError) as error:  # nothing has started yet, or a file is being replaced
        title, body = name, page.paragraph(str(error), "state")
    return title, '<p><a href="/">All runs</a></p>\n' + body


# --- Server -----------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Answer GET alone, and only if the browser was given a name of this machine.

    Another name means that a foreign site had its own name point here, to read pages in the name of its visitor.
    """

    def __init__(self, site: Site, *arguments: Any) -> None:
        self.site = site
        super().__init__(*arguments)

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in HOSTS:
            self._answer(403, "This server answers only at 127.0.0.1 and localhost.")
            return
        made = self.site.get(urllib.parse.unquote(urllib.parse.urlsplit(self.path).path))
        if made is None:
            self._answer(404, "There is no such page. The list of runs is at /.")
        elif self.headers.get("If-None-Match") == made.tag:
            self._send(304, b"", made.tag)
        else:
            self._send(200, made.content, made.tag)

    def _answer(self, code: int, sentence: str) -> None:
        self._send(code, page.document(f"{code}", page.paragraph(sentence)).encode())

    def _send(self, code: int, content: bytes, tag: str = "") -> None:
        self.send_response(code)
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(content)),
            "Cache-Control": "no-cache",
            "Content-Security-Policy": "frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in (headers | ({"ETag": tag} if tag else {})).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the browser has left
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Print nothing about requests."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # connections that wait; of more, a browser would see some hang for minutes


def opened(directory: Path, port: int) -> Server:
    """Listen on a port of 127.0.0.1; 0 chooses a free one.

    Raises:
        ConfigError: there is no such directory, or the port cannot be had.
    """
    require(directory.is_dir(), f"{directory}: there is no such directory.")
    require(0 <= port < 1 << 16, f"--port {port}: a port is a number from 0, which chooses a free one, to 65535.")
    try:
        return Server((HOSTS[0], port), functools.partial(Handler, Site(directory.resolve())))
    except OSError as error:
        raise ConfigError(f"Port {port} cannot be had ({error.strerror}): give another --port, or 0.") from error


def serve(directory: Path, port: int) -> None:
    """Serve the pages of a directory until Ctrl-C. Raises ConfigError as `opened` does."""
    sys.dont_write_bytecode = True  # of users' own classes, whose files are in run directories
    with opened(directory, port) as server:
        only = any((directory / name).is_file() for name in ("config.json", "sweep.json"))
        print(f"http://{HOSTS[0]}:{server.server_port}/{'report.html' * only}  (Ctrl-C stops)", flush=True)
        server.serve_forever()
