"""What a stage pays, and says, when its tracking fails: real servers that do not answer, full disks, damaged files."""

import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.tracking import start_tracker
from stages.tracking.delivered import DELIVERED, Delivered, peek, read_delivered, write_delivered
from stages.tracking.delivery import deliver
from stages.tracking.events import EVENTS, read_events
from stages.tracking.settle import settle
from stages.tracking.spool import Spool
from stages.tracking.tracker import Tracker
from tests.tracking.conftest import client, runs, settings, store, wait_for, waiting
from tests.tracking.event import start_event

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # MLflow's own
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),  # the sender may be
]
Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]


def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that does `answer` with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            kept = []  # a connection that is dropped is closed, which would be an answer
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                kept.append(connection)
                threading.Thread(target=answer, args=[connection], daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def silent(_: socket.socket) -> None:
    pass


def slow(connection: socket.socket) -> None:
    connection.recv(65536)
    time.sleep(8)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


@contextmanager
def address(kind: str, project: Path) -> Iterator[str]:
    if kind in ("silent", "slow"):
        with listening({"silent": silent, "slow": slow}[kind]) as uri:
            yield uri
    elif kind == "closed":
        yield f"http://127.0.0.1:{closed_port()}"
    else:
        (project / "mlflow.db").write_bytes(b"this was a database " * 100)
        yield f"sqlite:///{project / 'mlflow.db'}"


@pytest.mark.parametrize("kind", ["silent", "slow", "closed", "damaged database"])
def test_the_end_of_a_stage_takes_a_second_and_says_what_is_missing(
    kind: str, project: Path, schema: Path, capsys: Capture
) -> None:
    with address(kind, project) as uri:
        tracker = start_tracker("sft", settings(uri=uri, finish_timeout=1), project / "out")
        began = time.monotonic()
        for step in range(1000):
            tracker.log({"train/loss": 1.0}, step=step)
        logged = time.monotonic()
        assert logged - began < 1
        spool = tracker._sinks[-1]
        assert isinstance(spool, Spool) and spool.sender is not None
        if kind in ("closed", "damaged database"):  # the sender has met its error, and the stage tells it
            wait_for(lambda: peek(spool.folder).error is not None)
        began = time.monotonic()
        tracker.finish()
        assert time.monotonic() - began < 1.3
        said = capsys.readouterr().err
        assert "1002 events of this run" in said and "next run delivers" in said
        assert ("not an SQLite database" in said) is (kind == "damaged database")
        spool.sender.kill()
        spool.sender.wait()
    shutil.copyfile(schema, project / "mlflow.db")
    if kind == "closed":  # one will do: starting a sender takes long
        start_tracker("rl", settings(), project / "out").finish()
        wait_for(lambda: waiting(project) == [])
        assert runs(project)["rl"].info.status == "FINISHED"
    else:
        assert deliver(spool.folder, store(project))
    run = runs(project)["sft"]
    assert run.info.status == "FINISHED"
    history = client(project).get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in history) == list(range(1000))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"offset": -5}', b'{"offset": 7}', b"\xff\x00"])
def test_a_damaged_delivered_json_is_set_aside(content: bytes, project: Path, capsys: Capture) -> None:
    spool = Spool(project / ".spool", start_event(), finish_timeout=0.0)
    (spool.folder / DELIVERED).write_bytes(content)
    spool.close()
    assert "events of this run" in capsys.readouterr().err.replace("event ", "events ")
    assert read_delivered(spool.folder) == Delivered()
    assert "damaged and set aside" in capsys.readouterr().err
    assert (spool.folder / f"{DELIVERED}.damaged").read_bytes() == content


def test_lines_that_cannot_be_read_are_kept_and_told(ready: Path) -> None:
    spool = Spool(ready / ".spool", start_event(), finish_timeout=0.0)
    with (spool.folder / EVENTS).open("ab") as file:
        file.write(b'{"event": "met{"event": "metrics"}\n[]\n{"event": "metrics", "step": 1}\n')
        file.write(b'{"event": "metrics", "time": 1, "step": 2, "metrics": {"train/loss": 0.5}}\n')
        file.write(b'{"event": "artifact", "path": "artifacts/gone"}\n{"event": "fin')
    spool.close()
    assert deliver(spool.folder, store(ready))
    run = runs(ready)["sft"]
    assert run.data.metrics == {"train/loss": 0.5}
    assert (run.info.status, run.data.tags["treeline.spoilt_lines"]) == ("KILLED", "4")
    assert (ready / ".spool" / ".damaged" / spool.folder.name / EVENTS).exists()


def test_a_run_without_its_first_line_is_set_aside(ready: Path) -> None:
    spool = Spool(ready / ".spool", start_event(), finish_timeout=0.0)
    spool.write({"event": "metrics", "time": 1, "step": 3, "metrics": {"train/loss": 0.5}})
    lines = (spool.folder / EVENTS).read_bytes().splitlines(keepends=True)
    (spool.folder / EVENTS).write_bytes(lines[1])
    spool.close()
    assert deliver(spool.folder, store(ready))
    assert (ready / ".spool" / ".damaged" / spool.folder.name / EVENTS).read_bytes() == lines[1]


def test_a_line_that_is_being_written_waits(project: Path) -> None:
    spool = Spool(project / ".spool", start_event(), finish_timeout=0.0)
    with (spool.folder / EVENTS).open("a") as file:
        file.write('{"event": "met')
    events, spoilt, offset = read_events(spool.folder, 0, alive=True)
    assert ([event["event"] for event in events], spoilt) == (["start"], 0)
    with (spool.folder / EVENTS).open("a") as file:
        file.write('rics", "time": 1, "step": 1, "metrics": {}}\n')
    events, spoilt, _ = read_events(spool.folder, offset, alive=True)
    assert ([event["step"] for event in events], spoilt) == ([1], 0)
    spool.close()


FULL = """
import os, resource, sys, time
from pathlib import Path
from stages.tracking.spool import Spool
from stages.tracking.tracker import Tracker
from tests.tracking.event import start_event
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), limits[1]))
tracker = Tracker([Spool(Path(os.environ["DVC_ROOT"]) / ".spool", start_event(), 1.0)])
for step in range(100):
    tracker.log({"train/loss": 0.5}, step=step)
if "again" in sys.argv:  # there is room again
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
tracker.finish()
"""


@pytest.mark.parametrize(("room", "again"), [(10, True), (1000, False)])
def test_a_full_disk_costs_what_it_does_not_hold_and_no_more(room: int, again: bool, ready: Path) -> None:
    """A file of at most 1000 bytes, or of not even its first line: as on a full disk, a write takes a part or fails."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    arguments = [sys.executable, "-c", FULL, str(room), *(["again"] if again else [])]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    stage = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert stage.returncode == 0, stage.stderr
    assert "not all of this run may be tracked" in stage.stderr
    assert ("events of this run are lost" in stage.stderr) is not again
    (name,) = waiting(ready)
    assert deliver(ready / ".spool" / name, store(ready))
    if again:
        run = runs(ready)["sft"]
        assert run.info.status == "FINISHED"
        assert len(client(ready).get_metric_history(run.info.run_id, "train/loss")) == 100
    else:
        assert runs(ready)["sft"].info.status == "KILLED"  # what the disk held, up to where it was full


def test_a_spool_that_cannot_be_made_costs_nothing(project: Path, capsys: Capture) -> None:
    (project / ".spool").write_text("a file where the folder should be")
    tracker = start_tracker("sft", settings(), project / "out")
    tracker.log({"train/loss": 0.5}, step=1)
    tracker.finish()
    assert "this run is not tracked" in capsys.readouterr().err
    assert (project / "out" / "curves.csv").exists()


def test_a_value_that_cannot_be_written_costs_itself(ready: Path, capsys: Capture) -> None:
    tracker = Tracker([Spool(ready / ".spool", start_event(), finish_timeout=0.0)])
    endless: list = []
    endless.append(endless)
    tracker.log_table("samples", [{"prompt": endless}])
    tracker.log_artifact(ready / "nowhere")
    tracker.log({"train/loss": 0.5}, step=1)
    tracker.finish()
    assert "not all of this run may be tracked" in capsys.readouterr().err
    assert deliver(ready / ".spool" / waiting(ready)[0], store(ready))
    assert runs(ready)["sft"].data.metrics == {"train/loss": 0.5}


def test_a_name_that_mlflow_does_not_take_costs_itself(ready: Path, capsys: Capture) -> None:
    start = start_event(
        params={"seed": "1", "columns.what?": "x"}, tags={"dvc.input.a?b": "1", "git.dirty": "true"}
    )
    tracker = Tracker([Spool(ready / ".spool", start | {"name": "n" * 400}, finish_timeout=0.0)])
    tracker.log({f"train/{i}": 0.5 for i in range(20)} | {"train/what?": 1.0}, step=1)
    tracker.finish()
    assert deliver(ready / ".spool" / waiting(ready)[0], store(ready))
    run = runs(ready)["n" * 250]
    assert (run.data.params, run.data.tags["git.dirty"], len(run.data.metrics)) == ({"seed": "1"}, "true", 20)
    assert capsys.readouterr().err.count("rejected by MLflow") == 3


def test_a_store_that_has_lost_the_run_gets_all_of_it(ready: Path) -> None:
    """As after somebody has removed mlflow.db."""
    tracker = Tracker([spool := Spool(ready / ".spool", start_event(), finish_timeout=0.0)])
    tracker.log({"train/loss": 0.5}, step=1)
    target = store(ready).target
    state = Delivered(target=target, run_id="0" * 32, offset=(spool.folder / EVENTS).stat().st_size)
    write_delivered(spool.folder, state)
    tracker.log({"train/loss": 0.25}, step=2)
    tracker.finish()
    assert deliver(spool.folder, store(ready))
    run = runs(ready)["sft"]
    assert len(client(ready).get_metric_history(run.info.run_id, "train/loss")) == 2


def test_a_disk_too_full_for_the_state_does_not_keep_a_run_from_being_over(ready: Path) -> None:
    spool = Spool(ready / ".spool", start_event(), finish_timeout=0.0)
    (spool.folder / f".{DELIVERED}").mkdir()  # it can not be written
    spool.write({"event": "finish", "time": 2, "status": "FINISHED"})
    spool.close()
    assert deliver(spool.folder, store(ready))
    assert waiting(ready) == [] and runs(ready)["sft"].info.status == "FINISHED"


def test_the_end_tells_what_waits(project: Path, capsys: Capture) -> None:
    settle(project / ".spool", seconds=5.0)
    assert capsys.readouterr().err == ""
    spool = Spool(project / ".spool", start_event(), finish_timeout=0.0)
    spool.close()
    write_delivered(spool.folder, Delivered(error="connection refused"))
    capsys.readouterr()
    began = time.monotonic()
    settle(project / ".spool", seconds=5.0)
    assert time.monotonic() - began < 1  # nobody is at work on it
    said = capsys.readouterr().err
    assert "for MLflow: 1 (connection refused); the next run delivers them" in said
