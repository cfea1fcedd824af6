"""Weights & Biases as a tracker."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from research.config import require
from research.report.trackers.tracker import Client, End, MetricsLine, TrackedRun, Tracker, as_table

LONGEST_TAG = 64  # letters


@dataclass(frozen=True)
class WandB(Tracker):
    """Weights & Biases. A run keeps its id when it is resumed. Its own files are in trackers/wandb/ of the run."""

    project: str = "kintsugi"
    entity: str | None = None  # team or user; None: the default of the account
    mode: Literal["online", "offline"] | None = None  # None: $WANDB_MODE, or online; offline: files for `wandb sync`

    package = "wandb"

    def check(self) -> None:
        super().check()
        if self.is_online:
            advice = "run `wandb login`, set WANDB_API_KEY, or record without a network by WANDB_MODE=offline"
            require(_has_key(), f"WandB has no key for its server: {advice}.")

    @property
    def is_online(self) -> bool:
        return (self.mode or os.environ.get("WANDB_MODE", "online")) in ("online", "run")

    def connect(self, run: TrackedRun) -> Client:
        return _WandBRun(self, run)


def _has_key() -> bool:
    """Tell whether W&B will find a key, without its library, which would start a process of its own here."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser() / "settings"
    with suppress(OSError):
        if re.search(r"^(api_key|base_url)\b", settings.read_text(), re.M):
            return True  # or another server, for which W&B looks itself
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with suppress(OSError, NetrcParseError):
            if path and netrc(Path(path).expanduser()).authenticators(host):
                return True
    return False


class _WandBRun(Client):
    """An open run of W&B."""

    def __init__(self, tracker: WandB, run: TrackedRun) -> None:
        import wandb

        folder = run.directory / "trackers"
        # Links to files outside would keep the run directory from being moved and resumed.
        os.environ["WANDB_CACHE_DIR"] = os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")
        self._wandb, self._tracker = wandb, tracker
        tags = [] if run.group is None else [str(run.variant)[:LONGEST_TAG], f"seed={run.seed}"]
        self._run = wandb.init(
            project=tracker.project,
            entity=tracker.entity,
            mode=tracker.mode,
            dir=str(folder),
            id=run.id,
            resume="allow",
            name=run.name,
            group=run.group,
            job_type=run.variant,
            tags=tags,
            settings=wandb.Settings(
                silent=True, console="off", symlink=False, disable_git=True, disable_code=True, x_stats_pid=os.getppid()
            ),
        )
        for link in (folder / "wandb").glob("*run-*/logs/debug-core.log"):
            with suppress(OSError):
                link.unlink()
        facts = {"changes": run.changes, "commit": run.commit, "command": run.command}
        self._run.config.update(run.config | facts, allow_val_change=True)
        self.url = self._run.url
        # Steps below the server's last one would be left out.
        self.sent = self._run.step - 1 if self._run.resumed else None

    def log(self, lines: Sequence[MetricsLine]) -> None:
        for line in lines:
            self._run.log(dict(line.numbers), step=line.step)

    def samples(self, step: int, rows: Sequence[Mapping[str, str]]) -> None:
        names, data = as_table(rows)
        self._run.log({"samples": self._wandb.Table(columns=[*names], data=data)}, step=step)

    def end(self, end: End) -> None:
        if end.files:
            self._run.log({f"plots/{path.stem}": self._media(path) for path in end.files}, step=end.step)
        if self._tracker.artifacts and end.best is not None:
            artifact = self._wandb.Artifact(
                f"checkpoint-{self._run.id}", "model", metadata={"step": int(end.best.name)}
            )
            artifact.add_dir(str(end.best), policy="immutable", skip_cache=True)
            self._run.log_artifact(artifact, aliases=["best"])
        self._run.summary.update({"status": end.status, "reason": end.reason})
        if end.status == "preempted":
            self._run.mark_preempting()
        self._run.finish(exit_code=end.exit_code)

    def _media(self, path: Any) -> Any:
        return (
            self._wandb.Image(str(path)) if path.suffix == ".png" else self._wandb.Html(path.read_text(), inject=False)
        )
