"""Secrets: in no text, and after a run nowhere on the disk and in no process's arguments."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from stages.dispatch import JOB, Job
from stages.tracking.claim import SENDER, is_held
from stages.tracking.delivered import peek
from stages.tracking.delivery import deliver
from stages.tracking.redact import ScrubbedStream, redact, redact_override, secrets, without_secrets
from tests.tracking.conftest import runs, store, wait_for, waiting

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pass@host:5000/x", "http://host:5000/x"),
        ("https://t0ken@host", "https://host"),
        ("http://me:p@ss@host/x", "http://host/x"),
        ("postgresql+psycopg2://me:pa/s?s@host:5432/db", "postgresql+psycopg2://host:5432/db"),
        ("http://me:%40%2F@host", "http://host"),
        ("https://host/x?a=1&access_token=abc&b=2", "https://host/x?a=1&access_token=***&b=2"),
        ("s3://bucket/x?X-Amz-Signature=abc", "s3://bucket/x?X-Amz-Signature=***"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dabc", "mssql+pyodbc:///?odbc_connect=***"),
        (
            "cannot reach http://me:pass@host: refused (ask a@b)",
            "cannot reach http://host: refused (ask a@b)",
        ),
        # nothing secret
        ("git+https://host:443/repo@v1", "git+https://host:443/repo@v1"),
        ("https://host/repo@v1?download=true", "https://host/repo@v1?download=true"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("me@example.org: 3 + 4 = 7?", "me@example.org: 3 + 4 = 7?"),
    ],
)
def test_addresses_are_shown_without_secrets(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_value_under_a_secret_key_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OmegaConf.create({
        "tracking": {"uri": "${oc.env:SOME_URI}"},
        "data": {"task": {"api_key": "abc", "hf_token": "def", "max_tokens": 8, "urls": ["http://a:b@c/d"]}},
        "seed": 1,
    })  # fmt: skip
    monkeypatch.setenv("SOME_URI", "http://me:pass@host")
    shown = without_secrets(config)
    assert OmegaConf.to_container(shown, resolve=True) == {
        "tracking": {"uri": "http://host"},
        "data": {"task": {"api_key": "***", "hf_token": "***", "max_tokens": 8, "urls": ["http://c/d"]}},
        "seed": 1,
    }
    assert config.tracking.uri == "http://me:pass@host"
    assert redact_override("data.task.api_key=abc") == "data.task.api_key=***"
    assert redact_override("data.sft.path=https://a:b@c/d") == "data.sft.path=https://c/d"
    assert redact_override("rl.ppo.max_tokens=8") == "rl.ppo.max_tokens=8"


def test_a_job_of_a_sweep_writes_down_no_secret(tmp_path: Path) -> None:
    Job(tmp_path, ["data.sft.path=[a,b]", "tracking.uri=http://me:hush@host"]).save()
    written = json.loads((tmp_path / JOB).read_text())
    assert written["overrides"] == ["data.sft.path=[a,b]", "tracking.uri=http://host"]


def test_known_secrets_are_taken_out_of_the_words_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:p%40ssword@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "bearer-of-it")
    assert secrets(os.environ) == ["bearer-of-it", "p%40ssword", "p@ssword"]
    log = io.StringIO()
    print("login failed for p@ssword, with Authorization: bearer-of-it", file=ScrubbedStream(log))
    assert log.getvalue() == "login failed for ***, with Authorization: ***\n"


STAGE = """
import os, sys, time
from pathlib import Path
from omegaconf import OmegaConf
from stages.tracking import start_tracker
config = OmegaConf.create({
    "data": {"sft": {"path": "https://me:hush-hush@data.example.org/x?token=hush-hush"}},
    "tracking": {"enabled": True, "uri": os.environ["MLFLOW_TRACKING_URI"], "experiment": "treeline",
                 "finish_timeout": 0, "drain_timeout": 0},
})
tracker = start_tracker("sft", config, Path(os.environ["DVC_ROOT"]) / "out")
tracker.log({"train/loss": 0.5}, step=3)
sys.stdin.read()
tracker.finish()
"""


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_run_leaves_no_secret_behind(project: Path, schema: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there, whose errors quote its address; then a delivery to one that is."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush-hush@127.0.0.1:9/?api_key=hush-hush")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush-hush")
    command, pipe = [sys.executable, "-c", STAGE], subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    stage = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    wait_for(lambda: bool(waiting(project)) and bool(psutil.Process(stage.pid).children()))
    sender = psutil.Process(stage.pid).children()[0]
    arguments = " ".join(sender.cmdline())
    assert "stages.tracking.sender" in arguments and "hush" not in arguments
    spool = project / ".spool" / waiting(project)[0]
    wait_for(lambda: peek(spool).error is not None)
    said = "".join(stage.communicate(""))
    assert stage.returncode == 0
    assert "3 events of this run" in said and "hush" not in said
    assert "delivery failed" in (spool / "sender.log").read_text()
    assert holders(project) == []

    shutil.copyfile(schema, project / "mlflow.db")
    wait_for(lambda: not is_held(spool / SENDER))
    assert deliver(spool, store(project))
    assert runs(project)["sft"].data.params["data.sft.path"] == "https://data.example.org/x?token=***"
    assert holders(project) == []


def holders(folder: Path) -> list[str]:
    """The files that the secret is in."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and b"hush" in path.read_bytes()]
