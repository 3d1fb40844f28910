"""A model's weights out of safetensors, all of them: transformers makes up what is missing, and says so in its log."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from stages.config.errors import UserError, first_line

# Where a hub's repository has pickles alone, transformers would take weights out of an automated pull request.
os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
# What libraries raise for files that they cannot read as a model.
UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, ImportError,
    SafetensorError, StrictDataclassError,
)  # fmt: skip
# Masks and positions, which earlier versions of transformers wrote among the weights.
OLD_BUFFERS = re.compile(r"\.(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$|(^|\.)position_ids$")
SHOWN = 3  # keys in an error


def read_model(
    path: str | Path, kind: Any, *, revision: str | None = None, fresh: str | None = None, **options: Any
) -> PreTrainedModel:
    """`kind.from_pretrained`, in float32. `fresh` names a head that is to be new: it takes the place of another's.

    Raises UserError where the files cannot be read, or their weights are not just those that config.json asks for.
    """
    with _reports() as reports:
        try:
            model, found = kind.from_pretrained(
                path, revision=revision or "main", dtype=torch.float32, use_safetensors=True,
                ignore_mismatched_sizes=True, output_loading_info=True, **options,
            )  # fmt: skip
        except UNREADABLE as error:
            keys = re.findall(r"^(.+?)\s*\|[^\n]*CONVERSION", "\n".join(reports), re.MULTILINE)
            reason = f"incomplete or of another shape: {_names(keys)}" if keys else first_line(error)
            raise UserError(f"{path}: the model cannot be loaded: {reason}") from error
    _check_keys(path, model, found, fresh)
    return model


def _check_keys(path: str | Path, model: Any, found: dict[str, Any], fresh: str | None) -> None:
    missing, unexpected = found["missing_keys"], found["unexpected_keys"]
    if fresh:  # the old head's weights stand outside the transformer
        missing = {key for key in missing if not key.startswith(f"{fresh}.")}
        unexpected = {key for key in unexpected if key.startswith(f"{model.base_model_prefix}.")}
    buffers = {name for name, _ in model.named_buffers()}
    unexpected = {key for key in unexpected if key not in buffers and not OLD_BUFFERS.search(key)}
    check_keys(path, "config.json", missing, unexpected, {key for key, *_ in found["mismatched_keys"]})


def check_keys(
    path: str | Path,
    asker: str,
    missing: Collection[str],
    unexpected: Collection[str],
    misshapen: Collection[str],
) -> None:
    """Raise UserError that names keys of weights in `path`, where there are any, that are not what `asker` says."""
    kinds = {"missing": missing, "not asked for": unexpected, "of another shape": misshapen}
    wrong = [f"{len(keys)} {kind} ({_names(keys)})" for kind, keys in kinds.items() if keys]
    if wrong:
        raise UserError(
            f"{path}: the weights are not those of its {asker}: {'; '.join(wrong)}; take the whole model, as it was "
            "saved"
        )


def _names(keys: Iterable[str]) -> str:
    first, *_ = listed = sorted(set(keys))
    return first if len(listed) == 1 else ", ".join(listed[:SHOWN]) + (", ..." if len(listed) > SHOWN else "")


@contextmanager
def _reports() -> Iterator[list[str]]:
    """Transformers' tables of what it made up, kept from the log: what is wrong is told in one line."""
    logger, reports = logging.getLogger("transformers.modeling_utils"), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        if "LOAD REPORT" not in record.getMessage():
            return True
        reports.append(record.getMessage())
        return False

    logger.addFilter(keep)
    try:
        yield reports
    finally:
        logger.removeFilter(keep)
