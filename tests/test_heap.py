"""The allocator of main memory: when it is there, and what of freed tensors it keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages import heap
from stages.config.compose import ROOT
from stages.heap import CHOICES, mimalloc_environment

START = """
import resource
import torch
from stages.heap import give_back_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
"""
# A layer's tensors, sixteen times over: how many pages of 4 KiB the kernel clears for them.
TAKE = """
before = faults()
for _ in range(16):
    states = torch.ones(1 << 22)
    wide = states.repeat(4)
    states = wide * 2
print(faults() - before)
"""
# MiB that 100 tensors of 4.5 MiB take, and 50 more, which find room where 100 others were.
FIND_ROOM = """
before, kept = resident(), []
for _ in range(100):
    passing = torch.ones(1152 * 1024)
    kept.append(torch.ones(1152 * 1024))
    del passing
kept += [torch.ones(1152 * 1024) for _ in range(50)]
print(resident() - before)
"""
# MiB in memory: with 64 blocks of 4 MiB, with every second one of them freed, and with that given back.
GIVE_BACK = """
blocks = [torch.ones(1 << 20) for _ in range(64)]
full = resident()
blocks = blocks[::2]
freed = resident()
give_back_freed_memory()
print(full - freed, freed - resident())
"""
# Every interpreter that starts says what it has been given.
SITE = """
import os, sys
if sys.argv[0] == "-m" or sys.argv[0] == "-c":
    print("begins:", "mimalloc" in os.environ.get("LD_PRELOAD", ""), file=sys.stderr)
if "DROP" in os.environ:
    os.environ.pop("LD_PRELOAD", None)
"""
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="there it is another library's work")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a GPU, too."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@on_linux
def test_the_memory_of_a_freed_tensor_serves_the_next() -> None:
    assert int(printed(TAKE, mimalloc_environment())) * 3 < int(printed(TAKE, {}))


@on_linux
def test_a_tensor_finds_room_where_another_of_its_size_was() -> None:
    lives = 150 * 4.5
    assert 0.98 * lives < int(printed(FIND_ROOM, mimalloc_environment())) < 1.2 * lives


@on_linux
def test_what_is_kept_can_be_given_back() -> None:
    kept, given = map(int, printed(GIVE_BACK, mimalloc_environment()).split())
    assert abs(kept) < 16
    assert given > 96


@on_linux
def test_without_it_there_is_nothing_to_give_back() -> None:
    assert abs(int(printed(GIVE_BACK, {}).split()[1])) < 16


@on_linux
@pytest.mark.parametrize(
    ("command", "own", "seen"),
    [
        (["-m", "stages.heap"], {}, [False, True]),
        (["-O", "-m", "stages.heap"], {}, [False, True]),
        (["-m", "stages.heap"], {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, [False]),
        (["-m", "stages.heap"], {"LD_PRELOAD": ""}, [False]),
        (["-m", "stages.heap"], {"MIMALLOC_PURGE_DELAY": "5"}, [False]),
        (["-m", "stages.heap"], {"DROP": "as a hardened loader would"}, [False, True]),  # once, and no more
        (["-c", "import stages.heap"], {}, [False]),
        (["-m", "platform"], {}, [False]),
    ],
)
def test_a_stage_begins_again_with_it_unless_the_user_chose(
    command: list[str], own: dict[str, str], seen: list[bool], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITE)
    told = run([sys.executable, *command], own | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}).stderr
    assert [line for line in told.splitlines() if "begins" in line] == [f"begins: {value}" for value in seen]


def test_a_path_that_the_loader_cannot_read_is_not_given_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, sound in (("plain", True), ("with space", False), ("with:colon", False)):
        library = tmp_path / name / "libmimalloc.so"
        library.parent.mkdir()
        library.touch()
        where = SimpleNamespace(locate_file=lambda _, library=library: library)
        monkeypatch.setattr(heap, "distribution", lambda _, where=where: where)
        assert bool(mimalloc_environment()) == sound


@on_linux
def test_a_gpu_is_left_alone_unless_the_launch_chose_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for there, cpu, left in (
        (False, "", False),
        (True, "", True),
        (True, "true", False),
        (True, "True", False),
    ):
        monkeypatch.setattr(heap, "GPUS", (tmp_path if there else tmp_path / "none",))
        monkeypatch.setenv("ACCELERATE_USE_CPU", cpu)
        assert (mimalloc_environment() == {}) == left


def printed(code: str, own: dict[str, str]) -> str:
    return run([sys.executable, "-c", START + code], own).stdout


def run(command: list[str], own: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in CHOICES}
    done = subprocess.run(command, env=clean | own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done
