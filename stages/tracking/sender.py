"""The process that delivers one run from its spool to MLflow, and before it what earlier runs left behind.

    python -m stages.tracking.sender <spool folder> --uri … --experiment … --drain-timeout …

It follows the events while the stage lives. When the stage has ended it delivers the rest and removes the
folder; a stage that died without a last word is marked KILLED. What cannot be delivered stays, for the next
run's sender.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

# MLflow's defaults keep a first call to a silent server waiting for 246 s; the user's own settings win.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing here calls home

from mlflow.exceptions import MlflowException

from stages.tracking.spool import EVENTS, claim, is_alive, read_delivered, read_events, write_delivered
from stages.tracking.store import Store

POLL, LONGEST_WAIT = 2.0, 30.0  # seconds between deliveries; and at most, when they fail
LOCK = "sender.lock"
# What the store will never take, however often it is sent: left out, so that the rest arrives.
REJECTED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}


def deliver(folder: Path, store: Store) -> bool:
    """Deliver what is new in the spool; True when the run is over and all of it delivered."""
    state = read_delivered(folder)
    if state["uri"] != store.target:  # the spool keeps all of its events, so a new store gets the whole run
        state = {"uri": store.target, "run_id": None, "offset": 0, "error": None, "finished": False}
    alive = is_alive(folder)  # asked first: what a stage wrote before it died is then among what is read
    events, offset = read_events(folder, state["offset"])
    run_id = state["run_id"]
    if events and events[0]["event"] == "start":
        run_id = store.open_run(events.pop(0))
    if run_id is None:
        return not alive  # died before its first line was whole: there is nothing to tell
    finished = state["finished"]
    for group in grouped(events):
        finished |= send(folder, store, run_id, group)
    state |= {"run_id": run_id, "offset": offset, "error": None, "finished": finished}
    write_delivered(folder, state)
    if not finished and not alive:
        store.end_run(run_id, "KILLED", int((folder / EVENTS).stat().st_mtime * 1000))
    return finished or not alive


def grouped(events: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The events in order, neighbouring metrics events together: they go in one request."""
    groups: list[list[dict[str, Any]]] = []
    for event in events:
        if groups and event["event"] == "metrics" == groups[-1][0]["event"]:
            groups[-1].append(event)
        else:
            groups.append([event])
    return groups


def send(folder: Path, store: Store, run_id: str, group: list[dict[str, Any]]) -> bool:
    """Send one group; True when it ended the run. What MLflow rejects for good is logged and left out."""
    event = group[0]
    try:
        match event["event"]:
            case "metrics" | "summary":
                store.log_metrics(run_id, group)
            case "dataset":
                store.log_dataset(run_id, event)
            case "table":
                store.log_table(run_id, event)
            case "artifact":
                store.log_artifact(run_id, folder / event["path"])
            case "finish":
                store.end_run(run_id, event["status"], event["time"])
    except MlflowException as error:
        if error.error_code not in REJECTED:
            raise
        print(f"rejected by MLflow: {event['event']} of {run_id}: {error}", file=sys.stderr)
    return event["event"] == "finish"


def deliver_left(root: Path, store: Store) -> None:
    """Deliver the runs whose stage and sender are both gone: the machine went down, or the server was."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        with claim(folder / LOCK, wait=False) as mine:
            if mine and (folder / EVENTS).exists() and not is_alive(folder):
                try:
                    if deliver(folder, store):
                        remove(folder)
                except Exception as error:  # the next run tries again; the other runs must not wait for it
                    print(f"{folder.name} stays: {type(error).__name__}: {error}", file=sys.stderr)


def remove(folder: Path) -> None:
    """Take a delivered run away in one move, because its stage waits for the folder to be gone."""
    hidden = folder.with_name(f".{folder.name}.delivered")
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def follow(folder: Path, uri: str, experiment: str, drain_timeout: float) -> None:
    """Deliver until the run is over, or until `drain_timeout` seconds after its stage ended."""
    store: Store | None = None
    failures, ended = 0, None
    while True:
        try:
            if store is None:
                store = Store(uri, experiment, folder.parent)
                deliver_left(folder.parent, store)
            if deliver(folder, store):
                remove(folder)
                return
            failures = 0
        except Exception as error:  # whatever goes wrong here, the events are safe and the next try may do
            failures += 1
            print(f"delivery failed: {type(error).__name__}: {error}", file=sys.stderr)
            if failures > 1:  # once may be a database that was locked for a moment
                write_delivered(folder, {**read_delivered(folder), "error": str(error)[:200]})
        if not is_alive(folder):
            ended = ended or time.monotonic()
            if time.monotonic() - ended > drain_timeout:
                return
        wait(folder, POLL if failures == 0 else min(2.0**failures, LONGEST_WAIT))


def wait(folder: Path, seconds: float) -> None:
    """Sleep, but wake up when the stage ends: it waits for its last events to be delivered."""
    until, alive = time.monotonic() + seconds, is_alive(folder)
    while time.monotonic() < until and is_alive(folder) == alive:
        time.sleep(0.1)


def main() -> None:
    """Read the command line and follow the run, unless another sender has it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--drain-timeout", type=float, required=True)
    arguments = parser.parse_args()
    os.nice(10)
    with claim(arguments.folder / LOCK, wait=False) as mine:
        if mine:
            follow(arguments.folder, arguments.uri, arguments.experiment, arguments.drain_timeout)


if __name__ == "__main__":
    main()
