"""Whether the disk has room for what a stage is about to write. It is asked before, not found out in the middle."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from omegaconf import DictConfig

from stages.config.compose import ROOT
from stages.config.errors import UserError
from stages.config.validate import needs_reward_model
from stages.disk import amount, free, size

EMBEDDED_PARAMETERS = 134_515_008
BYTES = 4  # outputs and checkpoints are float32
COPIES = 2  # the output, and DVC's cache where the file system has no reflinks
MARGIN = 64 * 2**20  # data, curves, reports


def check_space(stage: str, config: DictConfig, where: Path, kept: Sequence[Path] = ()) -> None:
    """Raise UserError where `stage` would not find the room that it needs; a model of unknown size needs none.

    What lies in the folders `kept` gives its room to what is going to be written: checkpoints to go on from, half an
    output.
    """
    check_room([stage], config, where, kept)


def check_room(stages: Sequence[str], config: DictConfig, where: Path, kept: Sequence[Path] = ()) -> None:
    """The same for several stages that run one after the other."""
    if not config.run.check_space:
        return
    needed, there = room(stages, config), size(kept)
    if free(where) + there < needed:
        more = f", beside {amount(there)} of checkpoints," if there else ""
        raise UserError(
            f"not enough disk space for {', '.join(stages)}: up to {amount(needed - there)} are needed{more} and "
            f"{where} has {amount(free(where))}; make room, or set run.check_space=false"
        )


def room(stages: Sequence[str], config: DictConfig) -> int:
    """The bytes that these stages need at most, one after the other."""
    outputs = sum(_outputs(stage, config) for stage in stages) * COPIES
    scratch = max(_checkpoints(stage, config) for stage in stages)
    return MARGIN + parameters(config) * BYTES * (outputs + scratch)


def _trains(stage: str, config: DictConfig) -> bool:
    return stage in ("sft", "rl") or (stage == "reward_model" and needs_reward_model(config))


def _outputs(stage: str, config: DictConfig) -> int:
    if stage == "prepare":
        return int(config.model.path is None)
    section = config.reward_model if stage == "reward_model" else config.model
    return int(_trains(stage, config) and (section.merge_adapter or not config.model.lora))


def _checkpoints(stage: str, config: DictConfig) -> int:
    """Two checkpoints, of what is trained and Adam's two moments of it; of the best weights what each of them goes on
    from, and the newest. Adapters are less than a sixth of a model."""
    if not _trains(stage, config):
        return 0
    section = config.rl[config.rl.algo] if stage == "rl" else config[stage]
    copies = 2 * 3 + 3 * (section.keep == "best")
    return math.ceil(copies / 6) if config.model.lora else copies


def parameters(config: DictConfig) -> int:
    """How many parameters model.path has, by the headers of its files; 0 where they are not on this machine."""
    if config.model.path is None:
        return EMBEDDED_PARAMETERS
    folder = ROOT / Path(config.model.path).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(
                snapshot_download(config.model.path, revision=config.model.revision, local_files_only=True)
            )
        except (LocalEntryNotFoundError, HfHubHTTPError, ValueError):
            return 0
    try:
        return sum(_count(path) for path in folder.glob("*.safetensors"))
    except (OSError, struct.error, ValueError, AttributeError, KeyError, TypeError):
        return 0  # no whole safetensors file, which prepare and `make check` say


def _count(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(min(length, path.stat().st_size)))
    return sum(math.prod(entry["shape"]) for name, entry in tensors.items() if name != "__metadata__")
