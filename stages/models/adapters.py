"""LoRA adapters (Hu et al. 2021): made for a model, and put back onto their base from what was saved."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.config.errors import UserError, first_line
from stages.data.nearest import nearest
from stages.data.sealed import check_sealed
from stages.models.weights import UNREADABLE, check_keys

ADAPTER = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TARGETS = "params.yaml: model.lora_target_modules"


def with_lora(model: PreTrainedModel, settings: DictConfig, head: str | None = None) -> PeftModel:
    """`model` in new adapters; `head` is trained and saved whole.

    Raises UserError where `lora_target_modules` names what is not there, what cannot be adapted, or weights that
    another module shares.
    """
    targets = settings.lora_target_modules
    targets = targets if isinstance(targets, str) else list(targets)
    if not isinstance(targets, str) and not head:  # a classifier has no vocabulary head, which may be named
        _check_named(model, targets)
    shared = _shared_weights(model)
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        modules_to_save=[head] if head else None,
        exclude_modules=[head] if head else None,
        task_type="SEQ_CLS" if head else "CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*tie_word_embeddings")  # which is an error, below
            adapted = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"{TARGETS}: {first_line(error)}") from error
    _check_unshared(adapted, shared)
    for layer in adapted.modules():  # it would widen each input to float32, for autocast to narrow it again
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False
    return adapted  # type: ignore[return-value]


def _check_named(model: nn.Module, targets: list[str]) -> None:
    names = [name for name, _ in model.named_modules()]
    matrices = {name.split(".")[-2] for name, weight in model.named_parameters() if weight.dim() > 1}
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(
                f"{TARGETS}: the model has no module '{target}'{nearest(target, sorted(matrices))}"
            )


def _shared_weights(model: nn.Module) -> set[int]:
    """Of parameters that several modules have, such as tied embeddings."""
    counts = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    return {parameter for parameter, count in counts.items() if count > 1}


def _check_unshared(adapted: nn.Module, shared: set[int]) -> None:
    for name, layer in adapted.named_modules():
        if (
            isinstance(layer, BaseTunerLayer)
            and {id(each) for each in layer.get_base_layer().parameters()} & shared
        ):
            raise UserError(
                f"{TARGETS}: {name.rpartition('.')[2]} shares its weights with another module of this model (tied "
                "embeddings), which an adapter of one of them would change too: leave it out"
            )


def read_adapter(folder: Path) -> tuple[PeftConfig, dict[str, Tensor]]:
    """An adapter's settings and weights. Raises UserError where they cannot be read, or are not what was written."""
    check_sealed(folder)
    try:
        return PeftConfig.from_pretrained(str(folder)), load_file(folder / WEIGHTS)
    except UNREADABLE as error:
        raise UserError(f"{folder}: the adapter cannot be loaded: {first_line(error)}") from error


def put_adapter(model: PeftModel, weights: dict[str, Tensor], name: str, folder: Path) -> None:
    """The weights that were read in `folder`, into the adapter `name` of `model`.

    Raises UserError where they are not just those that the adapter has.
    """
    asker = f"{ADAPTER} and base"
    try:
        found: Any = set_peft_model_state_dict(model, weights, name)
    except KeyError as error:  # of a head that is saved whole
        check_keys(folder, asker, error.args, [], [])
        raise
    except RuntimeError as error:  # other shapes
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}: the adapter does not fit its base: {reason}") from error
    own = re.compile(rf"\.{re.escape(name)}(\.|$)")
    missing = [key for key in found.missing_keys if own.search(key)]
    check_keys(folder, asker, missing, found.unexpected_keys, [])


def merged(
    model: PreTrainedModel, folder: Path, adapter: PeftConfig, weights: dict[str, Tensor]
) -> PreTrainedModel:
    """The model with the adapter of `folder` in its weights."""
    adapter.task_type = None  # a language model's adapter goes onto a classifier, when a reward model begins
    adapter.inference_mode = True
    try:
        adapted = PeftModel(model, adapter)
    except ValueError as error:
        raise UserError(f"{folder}: the adapter does not fit its base: {first_line(error)}") from error
    put_adapter(adapted, weights, "default", folder)
    whole: Any = adapted.merge_and_unload()  # pyright: ignore[reportCallIssue]
    whole.requires_grad_(True)  # peft has frozen the base
    return whole


def base_of(folder: Path, adapter: PeftConfig) -> str:
    """An adapter names its base relative to its own folder, so that a project can be moved; a hub id stays one."""
    name = str(adapter.base_model_name_or_path)
    local = folder / name
    return str(local.resolve()) if local.exists() else name
