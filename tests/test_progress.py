"""Bars are for a terminal; a log gets whole lines."""

import os
import pty
import subprocess
import sys

PROGRAM = """
from stages import progress
progress.LOG_SECONDS = 0.0
for step in progress.progress(range(3), unit="step"):
    pass
print("after", file=__import__("sys").stderr)
"""


def _run(stderr: int) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=stderr, check=True)


def test_a_log_gets_lines(tmp_path) -> None:
    with (tmp_path / "log").open("wb") as log:
        _run(log.fileno())
    lines = (tmp_path / "log").read_text().split("\n")
    assert "\r" not in "".join(lines)
    assert lines[0].startswith("0%") and "0/3" in lines[0]
    assert "3/3" in lines[-3] and lines[-2] == "after"


def test_a_terminal_gets_a_bar() -> None:
    parent, child = pty.openpty()
    _run(child)
    os.close(child)
    written = os.read(parent, 65536).decode()
    os.close(parent)
    assert written.count("\r") >= 4  # of one line, written over
    assert "3/3" in written
