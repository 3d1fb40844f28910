"""Folders that a stage wrote: equal content in equal bytes, sealed, and checked when they are read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.config.errors import UserError
from stages.seal import SEAL, first_damaged, seal

# What readers of transformers' files ask of the version is whether it is 5: a patch of it is none of a model's content.
FORMAT = "5.0.0"
# Of where a tokenizer was loaded from, and how: not of what it is.
SURROUNDINGS = ("local_files_only", "is_local", "name_or_path", "peft_version")
CARD = "README.md"  # peft's, with versions and absolute paths


def seal_model(folder: Path, stop_token_ids: Sequence[int] = ()) -> None:
    """Rewrite a saved model's JSON so that it follows from the model alone, and seal the folder. `stop_token_ids`, if
    any, are what generation ends at: the tokenizer's EOS, and the token that ends a turn in the chat template."""
    (folder / CARD).unlink(missing_ok=True)
    stops = sorted(stop_token_ids)
    ends = {"eos_token_id": stops if len(stops) > 1 else stops[0]} if stops else {}
    _rewrite(folder / "generation_config.json", ends)
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        _rewrite(folder / name, {})
    seal(folder)


def _rewrite(file: Path, changes: dict[str, Any]) -> None:
    if not file.exists():
        return
    values = json.loads(file.read_text(encoding="utf-8")) | changes
    if "transformers_version" in values:
        values["transformers_version"] = FORMAT
    for name in SURROUNDINGS:
        values.pop(name, None)
    for name in (
        "target_modules",
        "exclude_modules",
    ):  # peft's sets, in an order that changes with each process
        if isinstance(values.get(name), list):
            values[name].sort()
    file.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def check_sealed(path: Path) -> None:
    """Raise UserError where a file, or one in a folder, is not what a stage wrote; what was never sealed passes."""
    folder = path if path.is_dir() else path.parent
    if (folder / SEAL).is_file() and (name := first_damaged(path)):
        raise UserError(_damaged(folder / name))


def _damaged(file: Path) -> str:
    # DVC trusts an object of its cache that is read-only, and looks again at one that is not.
    return (
        f"{file} is not what was written there: a damaged disk or DVC cache. `chmod -R u+w .dvc/cache` makes DVC check "
        f"its objects, and `dvc repro` makes anew what is damaged; if you changed it yourself, remove {SEAL} there"
    )
