"""The process that sends the records of one run directory to one tracker, as `tracker.py` starts it.

It reads the files that the run writes, so it needs nothing of the run but its end: that closes the standard input.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import research
from research.config import ConfigError, parse_json
from research.report.trackers.tracker import Client, End, MetricsLine, State, TrackedRun, Tracker, order
from research.storage.files import NoLocksError, parse_lines, read_lines, try_lock

EVERY = 1.0  # seconds between two looks at the files
MOST_LINES = 50  # sent at once
GRACE = 5.0  # seconds until this process ends itself if the run's process, which would kill it, is gone
LONGEST_PAUSE = 60.0  # seconds between two attempts to reach a tracker
READ = "\0read"  # key of the time at which a line was read
PLOTS = ("loss.png", "report.html")


class Growing:
    """A file of JSON lines that another process appends to, or replaces by a shorter one."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset, self.inode = path, 0, 0

    def new(self) -> list[dict[str, Any]]:
        """Return the complete lines since the last call; all lines of a file that was replaced."""
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self.inode or status.st_size < self.offset:
                    self.offset, self.inode = 0, status.st_ino
                file.seek(self.offset)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [line | {READ: time.time()} for line in parse_lines(whole).values if isinstance(line.get("step"), int)]


class Follower:
    """The records of a run directory, and how much of them a tracker has."""

    def __init__(self, tracker: Tracker, run: TrackedRun, state: State) -> None:
        self.tracker, self.run, self.state = tracker, run, state
        self.client: Client | None = None
        self._metrics, self._samples = (Growing(run.directory / f"{name}.jsonl") for name in ("metrics", "samples"))
        self._lines: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []

    def send(self) -> Client:
        """Send what is new. Raises whatever the tracker's library raises; the next call begins with what is left."""
        if self.client is None:
            self.client = self.tracker.connect(self.run)
            if self.client.sent is not None:
                self.state.metrics = min(self.state.metrics, (self.client.sent, 1))
            if self.client.url:
                report(f"shows the run at {self.client.url}")
        self._lines += self._metrics.new()
        self._rows += self._samples.new()  # after the metrics: those of later steps are not read yet
        while self._lines:
            self._send_lines(self.client)
        self._send_samples(self.client, self.state.metrics[0])
        return self.client

    def _send_lines(self, client: Client) -> None:
        """Send the next lines, up to a step whose samples come first."""
        kept = [line for line in self._lines[:MOST_LINES] if order(line) > self.state.metrics]
        if kept:
            self._send_samples(client, kept[0]["step"] - 1)
        if self._rows:
            due = min(row["step"] for row in self._rows)
            kept = [line for line in kept if line["step"] <= due]
        if kept:
            client.log([_numbers(line) for line in kept])
            self.state.metrics = order(kept[-1])
            self.state.write()
        last = self.state.metrics
        self._lines = [line for line in self._lines if order(line) > last]

    def _send_samples(self, client: Client, last: int) -> None:
        """Send the samples of steps up to `last`, a table for each."""
        for step, rows in groupby([row for row in self._rows if row["step"] <= last], key=lambda row: int(row["step"])):
            if step > self.state.samples:
                texts = [{name: str(text) for name, text in row.items() if name not in ("step", READ)} for row in rows]
                client.samples(step, texts)
                self.state.samples = step
                self.state.write()
        self._rows = [row for row in self._rows if row["step"] > last]


def _numbers(line: dict[str, Any]) -> MetricsLine:
    numbers = {name: value for name, value in line.items() if name not in ("step", READ) and value is not None}
    return MetricsLine(line["step"], numbers, line[READ])


def report(event: str) -> None:
    """Tell the run, which writes it to events.jsonl. If the run is gone, nobody needs to know."""
    with suppress(OSError):
        os.write(3, " ".join(event.split()).encode()[:500] + b"\n")


def tracked_run(directory: Path, id: str) -> TrackedRun:
    """Read a run as a tracker shows it from its directory."""
    config = parse_json((directory / "config.json").read_bytes(), "config.json")
    changes = directory / "diff.json"
    diff = parse_json(changes.read_bytes(), "diff.json") if changes.exists() else {}
    start = (read_lines(directory / "history.jsonl") or [{}])[-1]
    in_sweep = (directory.parent / "sweep.json").is_file()
    variant = ",".join(part for part in directory.name.split(",") if not part.startswith("seed="))
    return TrackedRun(
        id=id,
        directory=directory,
        name=directory.name,
        group=directory.parent.name if in_sweep else None,
        variant=(variant or "base") if in_sweep else None,
        seed=int(config["seed"]),
        config=dict(_flat(config)),
        changes={name: " -> ".join(values) for name, values in diff.items()},
        commit=str(start.get("commit", "unknown")),
        command=str(start.get("command", "")),
    )


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of a config by their dotted names."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield name, value
    else:
        for key, below in items:
            yield from _flat(below, f"{name}.{key}" if name else str(key))


def read_end(directory: Path) -> End:
    """Read how a run ended. A status "running" means that its process was killed."""
    result: dict[str, Any] = {}
    with suppress(OSError, ConfigError):
        result = parse_json((directory / "RESULT.json").read_bytes(), "RESULT.json")
    status, reason = result.get("status", "running"), str(result.get("reason", ""))
    if status == "running":
        status, reason = "killed", "its process ended without a result"
    best = directory / "checkpoints" / str((result.get("best") or {}).get("step"))
    files = [directory / name for name in PLOTS if (directory / name).is_file()]
    code, step = int(result.get("exit_code") or 0), int(result.get("step") or 0)
    return End(status, code or int(status != "done"), step, reason, files, best if best.is_dir() else None)


def follow(follower: Follower, over: threading.Event) -> None:
    """Send a run's records until it is over and all is sent. Repeat what fails, and report the first failure."""
    failures, reported = 0, False
    while True:
        ended = over.wait(min(LONGEST_PAUSE, EVERY * 2**failures))
        try:
            client = follower.send()
            if ended:
                end = read_end(follower.run.directory)
                client.end(end._replace(step=max(end.step, follower.state.metrics[0])))
                follower.state.ended = True
                follower.state.write()
                return
            failures = 0
        except Exception as error:
            failures += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            if not reported:
                reported = True
                report(f"is not reached, and is tried again: {type(error).__name__}: {error}")
            if ended:
                time.sleep(EVERY)


def _wait_for_end(over: threading.Event, most: int) -> None:
    """Wait until the run's process has ended or closed the pipe; end this process in time if the tracker hangs."""
    while os.read(0, 1):
        pass
    over.set()
    time.sleep(most + GRACE)
    os._exit(1)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run's end is the end of this process, and not before it
    os.dup2(1, 3, inheritable=False)  # `report` writes there; what libraries print goes to the log
    os.dup2(2, 1)
    request = json.loads(sys.argv[1])
    over, directory = threading.Event(), Path(request["directory"])
    tracker: Tracker = getattr(research, request["tracker"])(**request["fields"])
    threading.Thread(target=_wait_for_end, args=(over, tracker.close_seconds), daemon=True).start()
    with (directory / "trackers" / f"{request['file']}.log").open("ab") as lock:
        with suppress(NoLocksError):  # where there are no locks, steps may be sent twice
            while not try_lock(lock):  # the process of a start before, which was killed, sends the rest
                time.sleep(EVERY / 10)
        state = State(directory, request["file"])
        follow(Follower(tracker, tracked_run(directory, state.id), state), over)


if __name__ == "__main__":
    main()
