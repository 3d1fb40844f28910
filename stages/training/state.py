"""What steps change: weights and the optimizer's state, written as tensors by name and read back to the last bit."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

WEIGHTS = "weights"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's


def save_state(folder: Path, module: nn.Module, optimizer: Optimizer) -> None:
    """Write a file for the weights and one for each of the optimizer's moments, so that a copy in main memory is of one
    of them at a time. What is frozen is left out: it comes from where it was loaded from."""
    save_weights(folder, module)
    for moment in MOMENTS:
        states = {name: optimizer.state.get(parameter) for name, parameter in _trained(module).items()}
        _save(folder, moment, {name: state[moment] for name, state in states.items() if state})


def save_weights(folder: Path, module: nn.Module) -> None:
    """The file for the weights alone."""
    _save(folder, WEIGHTS, _weights(module))


def misfit(folder: Path, module: nn.Module) -> str | None:
    """Why this is no state of `module`, by names and shapes; None where it is one."""
    own = {name: list(value.shape) for name, value in _weights(module).items()}
    with safe_open(_path(folder, WEIGHTS), "pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    differ = sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name))
    return f"its weights are of another model: {', '.join(differ[:3])}" if differ else None


@torch.no_grad()
def load_state(folder: Path, module: nn.Module, optimizer: Optimizer) -> None:
    """Put it back in place. The optimizer keeps its own rates and other settings."""
    load_weights(folder, module)
    moments = {moment: load_file(_path(folder, moment)) for moment in MOMENTS}
    names = {parameter: name for name, parameter in _trained(module).items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {moment: _like(parameter, values[names[parameter]]) for moment, values in moments.items()}
        for index, parameter in enumerate(parameters)
        if names[parameter] in moments["step"]  # without a gradient so far, it has no state
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@torch.no_grad()
def load_weights(folder: Path, module: nn.Module) -> None:
    """Put the weights alone back in place."""
    own = module.state_dict()
    for name, value in load_file(_path(folder, WEIGHTS)).items():
        own[name].copy_(value)


def trained_bytes(module: nn.Module) -> int:
    """Of the weights that are trained."""
    return sum(parameter.numel() * parameter.element_size() for parameter in _trained(module).values())


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Laid out in memory as the fused step expects."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """By name; one that is tied is there once."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Trained parameters, and the buffers that belong to a model's state."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    buffers = {
        name: value.clone() for name, value in module.state_dict().items() if name not in parameters
    }  # of which several may be one
    return {name: parameter.detach() for name, parameter in _trained(module).items()} | buffers


def _save(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    save_file({key: value.contiguous() for key, value in tensors.items()}, _path(folder, name))


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"
