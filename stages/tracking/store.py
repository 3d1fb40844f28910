"""The only code that talks to MLflow. Every call may be repeated: a run is found again by its spool's name,
and a metric that is there already, with the same time, step and value, stays one."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_PARENT_RUN_ID

from stages.tracking.spool import claim

SPOOL_TAG = "treeline.spool"
PARENT_TAG = "treeline.parent"
# What one request may hold, and how long a value may be (mlflow.utils.validation).
METRICS_PER_REQUEST, PARAMS_PER_REQUEST, VALUE_LENGTH, DIGEST_LENGTH = 1000, 100, 6000, 36
# Worst first: what a parent whose children have all ended is called.
OUTCOMES = ["FAILED", "KILLED", "FINISHED"]


class Store:
    """One experiment of an MLflow store. Making it connects, and may raise what MLflow raises."""

    def __init__(self, uri: str, experiment: str, root: Path) -> None:
        self.target = f"{uri}#{experiment}"
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
            run_tags = {SPOOL_TAG: start["id"], "mlflow.user": getpass.getuser(), **start["tags"]}
            if start["parent"] is not None:
                run_tags[MLFLOW_PARENT_RUN_ID] = self._parent(start["parent"])
            found = self.client.create_run(self.experiment_id, start["time"], run_tags, start["name"])
        run_id = found.info.run_id
        entries = [Param(key, value[:VALUE_LENGTH]) for key, value in start["params"].items()]
        for i in range(0, len(entries), PARAMS_PER_REQUEST):
            self.client.log_batch(run_id, params=entries[i : i + PARAMS_PER_REQUEST])
        self.client.log_text(run_id, start["config"], "config.yaml")
        return run_id

    def log_metrics(self, run_id: str, events: list[dict[str, Any]]) -> None:
        """Metrics events, in as few requests as they fit."""
        points = [Metric(k, v, e["time"], e["step"]) for e in events for k, v in e["metrics"].items()]
        for i in range(0, len(points), METRICS_PER_REQUEST):
            self.client.log_batch(run_id, metrics=points[i : i + METRICS_PER_REQUEST])

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

    def _parent(self, parent: dict[str, Any]) -> str:
        """The run of a repro or a sweep: made by its first child, opened again by the later ones."""
        with claim(self._lock, wait=True):
            found = self._find(PARENT_TAG, parent["key"])
            if found is None:
                run_tags = {PARENT_TAG: parent["key"], "mlflow.user": getpass.getuser()}
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
