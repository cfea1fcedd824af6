"""MLflow as a tracker."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from research.config import require
from research.report.trackers.tracker import Client, End, MetricsLine, TrackedRun, Tracker, as_table

MOST_PARAMS, MOST_METRICS = 100, 1000  # in one request
LONGEST_PARAM, LONGEST_TAG = 6000, 5000  # letters
ID = "kintsugi.id"  # tag by which a resumed run finds its MLflow run
STATUS = {"done": "FINISHED", "preempted": "KILLED", "killed": "KILLED"}
SCHEMES = ("http", "https", "file", "sqlite", "postgresql", "mysql", "mssql", "databricks")


@dataclass(frozen=True)
class MLflow(Tracker):
    """MLflow: a server, a database or a directory of files."""

    uri: str | None = None  # "http://HOST:5000", "sqlite:///mlflow.db" or "file:mlruns"; None: $MLFLOW_TRACKING_URI
    experiment: str = "kintsugi"

    package = "mlflow"

    def check(self) -> None:
        super().check()
        require(self.address != "", "MLflow has no address: give MLflow(uri=...), or set MLFLOW_TRACKING_URI.")
        known = f"give one of {', '.join(SCHEMES)}, or a directory"
        scheme, parts, _ = self.address.partition(":")
        require(not parts or scheme.partition("+")[0] in SCHEMES, f"MLflow cannot write to {self.address}: {known}.")
        require(self.experiment.strip() != "", "MLflow.experiment is empty: it must be a name.")

    @property
    def address(self) -> str:
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI", "")

    def connect(self, run: TrackedRun) -> Client:
        return _MLflowRun(self, run)


class _MLflowRun(Client):
    """An open run of MLflow."""

    def __init__(self, tracker: MLflow, run: TrackedRun) -> None:
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        from mlflow import MlflowClient
        from mlflow.entities import RunTag

        self._tracker, self._client = tracker, MlflowClient(tracker.address)
        known = self._client.get_experiment_by_name(tracker.experiment)
        experiment = known.experiment_id if known else self._client.create_experiment(tracker.experiment)
        found = self._client.search_runs([experiment], f"tags.`{ID}` = '{run.id}'", max_results=1)
        new = found[0] if found else self._client.create_run(experiment, tags={ID: run.id}, run_name=run.name)
        self._id = new.info.run_id
        if new.info.status != "RUNNING":
            self._client.update_run(self._id, "RUNNING")
        in_sweep = {} if run.group is None else {"sweep": run.group, "variant": str(run.variant), "seed": str(run.seed)}
        tags = in_sweep | {"mlflow.source.git.commit": run.commit, "mlflow.source.name": run.command}
        self._set_params({name: str(value) for name, value in run.config.items()}, new.data.params, tags)
        tags |= {f"changes.{name}": change for name, change in run.changes.items()}
        given = [RunTag(name, value[:LONGEST_TAG]) for name, value in tags.items()]
        for first in range(0, len(given), MOST_PARAMS):
            self._client.log_batch(self._id, tags=given[first : first + MOST_PARAMS])
        is_page = tracker.address.startswith("http")
        self.url = f"{tracker.address.rstrip('/')}/#/experiments/{experiment}/runs/{self._id}" if is_page else None

    def _set_params(self, config: Mapping[str, str], known: Mapping[str, str], tags: dict[str, str]) -> None:
        """Add parameters. MLflow never changes one, so a field that changed at a resume becomes a tag."""
        from mlflow.entities import Param

        given = {name: value[:LONGEST_PARAM] for name, value in config.items()}
        tags |= {f"now.{name}": value for name, value in given.items() if known.get(name, value) != value}
        params = [Param(name, value) for name, value in given.items() if name not in known]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + MOST_PARAMS])

    def log(self, lines: Sequence[MetricsLine]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), int(1000 * line.time), line.step)
            for line in lines
            for name, value in line.numbers.items()
        ]
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + MOST_METRICS])

    def samples(self, step: int, rows: Sequence[Mapping[str, str]]) -> None:
        names, data = as_table(rows)
        path = f"samples/{step:08}.json"
        self._client.log_dict(self._id, {"columns": names, "data": data}, path)
        tag = "mlflow.loggedArtifacts"  # makes the page show the files as tables
        listed: list[Any] = json.loads(self._client.get_run(self._id).data.tags.get(tag, "[]"))
        text = json.dumps([*[item for item in listed if item["path"] != path], {"path": path, "type": "table"}])
        if len(text) <= LONGEST_TAG:
            self._client.set_tag(self._id, tag, text)

    def end(self, end: End) -> None:
        for path in end.files:
            self._client.log_artifact(self._id, str(path))
        if self._tracker.artifacts and end.best is not None:
            self._client.log_artifacts(self._id, str(end.best), f"checkpoints/{end.best.name}")
        self._client.set_tag(self._id, "status", end.status)
        self._client.set_tag(self._id, "reason", end.reason[:LONGEST_TAG])
        self._client.set_terminated(self._id, STATUS.get(end.status, "FAILED"))
