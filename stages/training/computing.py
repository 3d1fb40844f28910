"""What the last bits of a result follow from, beside values, inputs and code."""

from __future__ import annotations

import peft
import torch
import transformers
from accelerate import Accelerator


def computing(accelerator: Accelerator) -> dict[str, str]:
    """By the words of the warning that a change of it is worth."""
    device = f"a CPU with {torch.backends.cpu.get_cpu_capability()}"
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    return {
        "device": device,
        "precision": str(accelerator.mixed_precision),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
