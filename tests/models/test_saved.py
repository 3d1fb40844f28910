"""Saved models as other programs read them: where they stop, and which token a reward is of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from stages.data.tokenizers import load_tokenizer
from stages.models.load import add_adapter, load_model, save_model
from stages.models.reward import RewardModel
from tests.data.tiny import save_tiny_model
from tests.models.tiny import lora, shake, tree

EOS = 257  # of the tiny tokenizer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny_model(tmp_path / "base", initializer_range=0.3)


@pytest.mark.parametrize("merge", [True, False])
def test_generation_ends_at_the_template_s_token_and_at_eos(base: Path, tmp_path: Path, merge: bool):
    model, folder = add_adapter(load_model(base), lora()), tmp_path / "sft"
    prompt = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        written = int(model(prompt).logits[0, -1].argmax())  # stands for a template's end of turn
    save_model(
        model, load_tokenizer(base), folder, merge_adapter=merge, base=base, stop_token_ids=[EOS, written]
    )
    assert GenerationConfig.from_pretrained(folder).eos_token_id == sorted([EOS, written])
    if merge:
        plain = AutoModelForCausalLM.from_pretrained(folder)
        assert plain.generate(prompt, max_new_tokens=4, do_sample=False).tolist() == [[5, 6, 7, written]]


def test_a_single_end_is_a_number(base: Path, tmp_path: Path):
    for stops in ([EOS], []):
        save_model(
            load_model(base), load_tokenizer(base), tmp_path / "sft", merge_adapter=True, base=base,
            stop_token_ids=stops,
        )  # fmt: skip
        assert GenerationConfig.from_pretrained(tmp_path / "sft").eos_token_id == EOS


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", ["<eos>", "<start>", None])
def test_transformers_own_classifier_gives_our_rewards(
    base: Path, tmp_path: Path, pad: str | None, side: str
):
    """Whatever pads: with EOS for padding, it would take the token before EOS."""
    tokenizer = load_tokenizer(base)
    tokenizer.pad_token = pad
    model = RewardModel.from_policy(base, lora())
    shake(model)
    prompt, completions = [5, 6, 7], [[8, 9, EOS], [10, 11, 12, 13, EOS]]
    expected = model([tree(prompt, *completions)]).detach()

    folder = tmp_path / "reward_model"
    save_model(model.model, tokenizer, folder, merge_adapter=True, base=base, stop_token_ids=[EOS])
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    reader = AutoTokenizer.from_pretrained(folder, padding_side=side)
    rows = reader.pad({"input_ids": [prompt + each for each in completions]}, return_tensors="pt")
    assert rows["input_ids"].shape == (2, 8)
    found = theirs(**rows, position_ids=(rows["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert tokenizer.pad_token == pad  # the caller's stays
