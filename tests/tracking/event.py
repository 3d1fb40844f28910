"""The first event of a run, without what MLflow needs to be imported."""

from typing import Any


def start_event(**changes: Any) -> dict[str, Any]:
    fields = {"event": "start", "time": 1_700_000_000_000, "stage": "sft", "name": "sft", "parent": None}
    return fields | {"params": {"seed": "1"}, "tags": {}, "config": "seed: 1\n"} | changes
