"""The only code that talks to MLflow. Every call may be repeated: a run is found again by its spool's name,
and a metric that is there already, with the same time, step and value, stays one."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID

from stages.tracking.claim import claim
from stages.tracking.redact import redact

SPOOL_TAG = "treeline.spool"
PARENT_TAG = "treeline.parent"
# What one request may hold, and how long a value may be (mlflow.utils.validation).
METRICS_PER_REQUEST, OTHERS_PER_REQUEST, VALUE_LENGTH, DIGEST_LENGTH, NAME_LENGTH = 1000, 100, 6000, 36, 250
# What the store will never take, however often it is sent.
REJECTED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE"}
GONE = "RESOURCE_DOES_NOT_EXIST"
SQLITE, MAGIC = "sqlite:///", b"SQLite format 3\0"
# Worst first: what a parent whose children have all ended is called.
OUTCOMES = ["FAILED", "KILLED", "FINISHED"]


class Store:
    """One experiment of an MLflow store. Making it connects, and may raise what MLflow raises."""

    def __init__(self, uri: str, experiment: str, root: Path) -> None:
        self.target = f"{redact(uri)}#{experiment}"
        check_database(uri)
        self._lock = root / "store.lock"
        # Six processes that open a fresh sqlite store at once leave one alive; and two would both make the
        # experiment, or the parent run, of the same name.
        with claim(self._lock, wait=True):
            self.client = MlflowClient(tracking_uri=uri)
            artifacts = (root.parent / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
            self.experiment_id = self._experiment(experiment, artifacts)

    def open_run(self, start: dict[str, Any]) -> str:
        """The run of a spool, made if it is not there, under its parent; with params, tags and config."""
        found = self._find(SPOOL_TAG, start["id"])
        if found is None:
            run_tags = {SPOOL_TAG: start["id"], "mlflow.user": user()}
            if start["parent"] is not None:
                run_tags[MLFLOW_PARENT_RUN_ID] = self._parent(start["parent"])
            name = start["name"][:NAME_LENGTH]
            found = self.client.create_run(self.experiment_id, start["time"], run_tags, name)
        run_id = found.info.run_id
        # Names are a user's, too (rewards, columns, paths): one that MLflow does not take must not cost the others.
        self._log(run_id, "tags", [RunTag(key, value) for key, value in start["tags"].items()])
        params = [Param(key, value[:VALUE_LENGTH]) for key, value in start["params"].items()]
        self._log(run_id, "params", params)
        self.client.log_text(run_id, start["config"], "config.yaml")
        return run_id

    def has(self, run_id: str) -> bool:
        """Whether the store knows the run: its database may have been replaced."""
        try:
            self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != GONE:
                raise
            return False
        return True

    def rejects(self, run_id: str, error: Exception) -> bool:
        """Whether an error is the store's last word on what was sent."""
        if not isinstance(error, MlflowException):
            return False
        return error.error_code in REJECTED or (error.error_code == GONE and self.has(run_id))

    def tag(self, run_id: str, key: str, value: str) -> None:
        """Mark a run."""
        self.client.set_tag(run_id, key, value)

    def log_metrics(self, run_id: str, events: list[dict[str, Any]]) -> None:
        """Metrics events, in as few requests as they fit."""
        points = [Metric(k, v, e["time"], e["step"]) for e in events for k, v in e["metrics"].items()]
        self._log(run_id, "metrics", points)

    def log_dataset(self, run_id: str, event: dict[str, Any]) -> None:
        """A dataset as the run's input; MLflow's column holds a part of the digest, the profile the whole."""
        profile = json.dumps({"num_rows": event["rows"], "digest": event["digest"]})
        dataset = Dataset(event["name"], event["digest"][:DIGEST_LENGTH], "local", "{}", profile=profile)
        context = InputTag("mlflow.data.context", event["name"])
        self.client.log_inputs(run_id, [DatasetInput(dataset, [context])])

    def log_table(self, run_id: str, event: dict[str, Any]) -> None:
        """A table in the form of MLflow's log_table, which appends: sent twice, it doubles the rows.

        Its columns are those of any row; where a row has none of a name, its cell is null.
        """
        columns = list(dict.fromkeys(name for row in event["rows"] for name in row))
        table = {"columns": columns, "data": [[row.get(name) for name in columns] for row in event["rows"]]}
        path = f"{event['name']}.json"
        self.client.log_text(run_id, json.dumps(table), path)
        known = json.loads(self.client.get_run(run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        entry = {"path": path, "type": "table"}
        if entry not in known:
            self.client.set_tag(run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([*known, entry]))

    def log_artifact(self, run_id: str, path: Path) -> None:
        """A file, or a folder under its own name."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), path.name)
        else:
            self.client.log_artifact(run_id, str(path))

    def end_run(self, run_id: str, status: str, time: int) -> None:
        """End a run, and its parent when no other child of it runs; the parent takes the worst outcome."""
        self.client.set_terminated(run_id, status, time)
        parent = self.client.get_run(run_id).data.tags.get(MLFLOW_PARENT_RUN_ID)
        if parent is None:
            return
        with claim(self._lock, wait=True):
            statuses = {child.info.status for child in self._search(MLFLOW_PARENT_RUN_ID, parent)}
            if "RUNNING" not in statuses:
                self.client.set_terminated(parent, next(o for o in OUTCOMES if o in statuses), time)

    def _log(self, run_id: str, kind: str, entities: Sequence[Any]) -> None:
        """Metrics, params or tags, in as few requests as they fit. What is rejected is found by halves and left out."""
        most = METRICS_PER_REQUEST if kind == "metrics" else OTHERS_PER_REQUEST
        log_batch: Any = self.client.log_batch
        for i in range(0, len(entities), most):
            batch = entities[i : i + most]
            try:
                log_batch(run_id, **{kind: batch})
            except MlflowException as error:
                if not self.rejects(run_id, error):
                    raise
                if len(batch) == 1:
                    print(f"rejected by MLflow: {kind} {batch[0].key!r}: {error}", file=sys.stderr)
                    continue
                self._log(run_id, kind, batch[: len(batch) // 2])
                self._log(run_id, kind, batch[len(batch) // 2 :])

    def _parent(self, parent: dict[str, Any]) -> str:
        """The run of a repro or a sweep: made by its first child, opened again by the later ones."""
        with claim(self._lock, wait=True):
            found = self._find(PARENT_TAG, parent["key"])
            if found is None:
                run_tags = {PARENT_TAG: parent["key"], "mlflow.user": user()}
                found = self.client.create_run(self.experiment_id, parent["time"], run_tags, parent["name"])
            elif found.info.status != "RUNNING":
                self.client.update_run(found.info.run_id, status="RUNNING")
            return found.info.run_id

    def _experiment(self, name: str, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return self.client.create_experiment(name, artifact_location=artifacts)
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _find(self, tag: str, value: str) -> Run | None:
        return next(iter(self._search(tag, value)), None)

    def _search(self, tag: str, value: str) -> list[Run]:
        quoted = value.replace("'", "")
        query = f"tags.`{tag}` = '{quoted}'"
        return list(self.client.search_runs([self.experiment_id], query, max_results=1000))


def user() -> str:
    """Who runs this; a container may have an id without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def check_database(uri: str) -> None:
    """Raise ValueError where a sqlite file is none: MLflow would try it for two minutes."""
    path = Path(uri.removeprefix(SQLITE).partition("?")[0])
    if uri.startswith(SQLITE) and path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{path} is not an SQLite database: move it away, and a new one is made")
