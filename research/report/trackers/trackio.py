"""Trackio as a tracker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from research.config import require
from research.report.trackers.tracker import Client, End, MetricsLine, TrackedRun, Tracker, as_table


@dataclass(frozen=True)
class Trackio(Tracker):
    """Trackio: a database of this machine, in $TRACKIO_DIR, that `trackio show` displays.

    $TRACKIO_SERVER_URL or $TRACKIO_SPACE_ID sends the run to a server or a Space instead.
    """

    project: str = "kintsugi"

    package = "trackio"

    def check(self) -> None:
        super().check()
        require(self.project.strip() != "", "Trackio.project is empty: it must be a name.")

    def connect(self, run: TrackedRun) -> Client:
        return _TrackioRun(self, run)


class _TrackioRun(Client):
    """An open run of trackio, which finds a resumed run by its name: so the name has the id in it."""

    def __init__(self, tracker: Trackio, run: TrackedRun) -> None:
        import trackio

        self._trackio, self._tracker, self._id = trackio, tracker, run.id
        facts = {f"changes.{name}": change for name, change in run.changes.items()}
        facts |= {"commit": run.commit, "command": run.command}
        if run.variant is not None:
            facts |= {"variant": run.variant}
        self._run = trackio.init(
            project=tracker.project,
            name=f"{run.name}-{run.id}",
            group=run.group,
            config=run.config | facts,
            resume="allow",
            embed=False,
        )

    def log(self, lines: Sequence[MetricsLine]) -> None:
        for line in lines:
            self._run.log(dict(line.numbers), step=line.step)

    def samples(self, step: int, rows: Sequence[Mapping[str, str]]) -> None:
        names, data = as_table(rows)
        self._run.log({"samples": self._trackio.Table(columns=names, data=data)}, step=step)

    def end(self, end: End) -> None:
        if end.files:
            self._run.log({f"plots/{path.stem}": self._media(path) for path in end.files}, step=end.step)
        if self._tracker.artifacts and end.best is not None:
            artifact = self._trackio.Artifact(f"checkpoint-{self._id}", type="model")
            artifact.add_dir(str(end.best))
            self._run.log_artifact(artifact, aliases=["best"])
        level = self._trackio.AlertLevel.INFO if end.exit_code == 0 else self._trackio.AlertLevel.WARN
        self._run.alert(f"{end.status}, step {end.step}", end.reason, level)
        self._run.finish()

    def _media(self, path: Path) -> Any:
        return self._trackio.Image(str(path)) if path.suffix == ".png" else self._trackio.Html(path)
