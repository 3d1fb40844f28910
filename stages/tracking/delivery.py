"""Delivery of spooled runs to a store: as often as it takes, with the same result each time."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from stages.tracking.claim import SENDER, claim
from stages.tracking.delivered import Delivered, read_delivered, write_delivered
from stages.tracking.events import DAMAGED, EVENTS, is_alive, read_events
from stages.tracking.store import GONE, Store


def deliver(folder: Path, store: Store) -> bool:
    """Deliver what is new in the spool; True when the run is over and all of it delivered, and its folder gone."""
    state = read_delivered(folder)
    if state.target != store.target:  # the spool keeps all of its events, so a new store gets the whole run
        state = Delivered(target=store.target)
    try:
        return advance(folder, store, state)
    except MlflowException as error:
        if error.error_code != GONE or state.run_id is None or store.has(state.run_id):
            raise
        print(f"{folder.name}: the store has lost the run, and gets all of it again", file=sys.stderr)
        return advance(folder, store, Delivered(target=store.target))


def advance(folder: Path, store: Store, state: Delivered) -> bool:
    """Send what stands behind the state's offset, and move the offset on."""
    alive = is_alive(folder)  # asked first: what a stage wrote before it died is then among what is read
    events, spoilt, offset = read_events(folder, state.offset, alive=alive)
    run_id, finished = state.run_id, state.finished
    if events and events[0]["event"] == "start":
        run_id = store.open_run(events.pop(0))
    if run_id is not None:
        for group in grouped(events):
            finished |= send(folder, store, run_id, group)
    elif alive:
        return False  # the disk has not taken its first line yet
    state = Delivered(
        target=store.target, run_id=run_id, offset=offset, spoilt=state.spoilt + spoilt, finished=finished
    )
    save(folder, state)
    if alive and not finished:
        return False
    end(folder, store, state, len(events))
    return True


def save(folder: Path, state: Delivered) -> None:
    """Without it, the run would be sent again, which changes nothing: a full disk must not keep it from being over."""
    try:
        write_delivered(folder, state)
    except OSError as error:
        print(f"{folder.name}: {error}", file=sys.stderr)


def end(folder: Path, store: Store, state: Delivered, unsent: int) -> None:
    """Close the run of a stage that died, and put its folder away: what could not be read of it is kept."""
    if state.run_id is not None:
        if not state.finished:
            store.end_run(state.run_id, "KILLED", int((folder / EVENTS).stat().st_mtime * 1000))
        if state.spoilt:
            store.tag(state.run_id, "treeline.spoilt_lines", str(state.spoilt))
    if state.spoilt or (state.run_id is None and unsent):
        kept = folder.parent / DAMAGED / folder.name
        print(
            f"{folder.name}: {state.spoilt} lines cannot be read; it is set aside in {kept}", file=sys.stderr
        )
        kept.parent.mkdir(exist_ok=True)
        folder.rename(kept)
    else:
        remove(folder)


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
            case "artifact" if (folder / event["path"]).exists():
                store.log_artifact(run_id, folder / event["path"])
            case "artifact":
                print(f"{folder.name}: {event['path']} is not there, and is left out", file=sys.stderr)
            case "finish":
                store.end_run(run_id, event["status"], event["time"])
    except MlflowException as error:
        if not store.rejects(run_id, error):
            raise
        print(f"rejected by MLflow: {event['event']} of {run_id}: {error}", file=sys.stderr)
    return event["event"] == "finish"


def deliver_left(root: Path, store: Store, seconds: float) -> None:
    """Deliver the runs whose stage and sender are both gone: the machine went down, or the server was. What is not
    done after some `seconds` waits for the next run."""
    deadline = time.monotonic() + seconds
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        with claim(folder / SENDER, wait=False) as mine:
            if mine and (folder / EVENTS).exists() and not is_alive(folder) and time.monotonic() < deadline:
                try:
                    deliver(folder, store)
                except Exception as error:  # the next run tries again; the other runs must not wait for it
                    print(f"{folder.name} stays: {type(error).__name__}: {error}", file=sys.stderr)


def remove(folder: Path) -> None:
    """Take a delivered run away in one move, because its stage waits for the folder to be gone."""
    hidden = folder.with_name(f".{folder.name}.delivered")
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
