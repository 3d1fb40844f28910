"""Bars are for a terminal; a log gets whole lines."""

import logging
import os
import pty
import subprocess
import sys
import termios

from stages.progress import quiet_libraries

PROGRAM = """
from stages import progress
progress.LOG_SECONDS = 0.0
bar = progress.progress(range(3), unit="step")
for step in bar:
    bar.set_postfix(loss=step)
    for _ in progress.progress(range(2), desc="inner", leave=False):
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
    assert "\x1b" not in "".join(lines) and "" not in lines[:-1]
    outer = [line for line in lines if "step" in line]
    assert [f"{done}/3" in line for done, line in enumerate(outer[:4])] == [True] * 4
    assert "loss=2" in outer[3] and lines[-2] == "after"
    assert "#" not in "".join(lines)  # no bar that stands still


def test_what_says_nothing_to_a_user_is_left_out(caplog) -> None:
    quiet_libraries()
    log = logging.getLogger("accelerate.utils.other")
    for text in ("[RANK 0] Removed shared tensor {'policy.lm_head.weight'} while saving.", "Something else"):
        log.warning(text)
    assert [record.getMessage() for record in caplog.records] == ["Something else"]


def test_a_terminal_gets_a_bar() -> None:
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 100))
    _run(child)
    os.close(child)
    written = os.read(parent, 65536).decode()
    os.close(parent)
    assert "\x1b[A" in written  # back to the outer bar's line, which is written over
    assert "3/3" in written
