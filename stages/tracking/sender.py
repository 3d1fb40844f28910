"""The process that delivers one run from its spool to MLflow, and after it what earlier runs left behind.

    python -m stages.tracking.sender <spool folder> --experiment … --drain-timeout …

The address of the store comes in MLFLOW_TRACKING_URI: it may hold a password, and everybody on the machine can read
the arguments of a process. The sender follows the events while the stage lives. When the stage has ended it delivers
the rest and removes the folder; a stage that died without a last word is marked KILLED. What cannot be delivered
stays, for the next run's sender.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from stages.tracking.claim import SENDER, claim
from stages.tracking.delivered import note
from stages.tracking.events import is_alive
from stages.tracking.redact import ScrubbedStream, scrub

# MLflow's defaults keep a first call to a silent server waiting for 246 s; the user's own settings win.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing here calls home
}
POLL, LONGEST_WAIT = 2.0, 30.0  # seconds between deliveries; and at most, when they fail


def follow(folder: Path, uri: str, experiment: str, drain_timeout: float) -> None:
    """Deliver until the run is over, or until `drain_timeout` seconds after its stage ended."""
    # Behind the settings above, which MLflow reads when it is imported.
    from stages.tracking.delivery import deliver, deliver_left
    from stages.tracking.store import Store

    store: Store | None = None
    failures, ended, looked = 0, None, False
    while True:
        try:
            if store is None:
                store = Store(uri, experiment, folder.parent)
            over = deliver(folder, store)
            failures = 0
            if not looked:
                deliver_left(folder.parent, store, drain_timeout)
                looked = True
            if over:
                return
        except Exception as error:  # whatever goes wrong here, the events are safe and the next try may do
            store = None  # its database or its experiment may have been replaced
            failures += 1
            print(f"delivery failed: {type(error).__name__}: {error}", file=sys.stderr)
            note(folder, scrub(str(error)))
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
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--drain-timeout", type=float, required=True)
    arguments = parser.parse_args()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    sys.stdout = sys.stderr = ScrubbedStream(sys.stderr)  # before MLflow's loggers take hold of them
    os.nice(10)
    with claim(arguments.folder / SENDER, wait=False) as mine:
        if mine:
            uri = os.environ["MLFLOW_TRACKING_URI"]
            follow(arguments.folder, uri, arguments.experiment, arguments.drain_timeout)


if __name__ == "__main__":
    main()
