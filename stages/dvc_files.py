"""What DVC writes for itself, and cannot read when it was killed while it wrote: found before `dvc repro` stops at it
with an error that names no remedy."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.rwlock import SCHEMA as RWLOCK
from dvc.schema import COMPILED_LOCKFILE_SCHEMA as LOCK
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml
from voluptuous import Invalid

from stages.config.errors import UserError

PATIENCE = 1.0  # seconds: more than a dvc that is at work takes to write either file


def check_dvc_files(root: Path) -> None:
    """Raise UserError where dvc.lock or DVC's state cannot be read. Its line ends with the command that helps."""
    if reason := _lasting_damage(root / "dvc.lock"):
        raise UserError(
            f"dvc.lock is damaged ({reason}): a dvc was killed while it wrote it, or a merge left marks in it. "
            "`rm dvc.lock`; `dvc repro` writes it anew, and takes from its cache what has been run"
        )
    if reason := _lasting_damage(root / ".dvc" / "tmp" / "rwlock"):
        raise UserError(
            f".dvc/tmp/rwlock is damaged ({reason}): a dvc was killed while it wrote it. When no other dvc is at work "
            "here, `rm .dvc/tmp/rwlock`"
        )
    try:
        Repo(str(root)).close()
    except sqlite3.DatabaseError as error:
        # where the state lies follows from the time of this file
        raise UserError(
            f"DVC's state is damaged ({error}). `rm .dvc/tmp/btime`; DVC begins a new one, and hashes all files again"
        ) from error
    except DvcException as error:
        raise UserError(f"DVC cannot open the project: {_one_line(error)}") from error


def _lasting_damage(path: Path) -> str:
    """What is wrong with a file that no dvc is writing just now; nothing where all is well."""
    if not _damage(path):
        return ""
    time.sleep(PATIENCE)
    return _damage(path)


def _damage(path: Path) -> str:
    try:
        if path.name == "dvc.lock":
            LOCK(load_yaml(str(path)))
        else:
            RWLOCK(json.loads(path.read_text()))
    except FileNotFoundError:
        return ""
    except YAMLFileCorruptedError:
        return "it is no YAML"
    except (DvcException, Invalid, ValueError) as error:
        return _one_line(error)
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
