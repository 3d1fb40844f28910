"""The loop: it learns, it evaluates when it should, and it stops before a broken number touches a weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.data.examples import Example, read_examples
from stages.models.load import add_adapter, load_model, save_model
from stages.rollout.sampler import Sampler
from stages.training.evaluation import Evaluation
from stages.training.step import NonFiniteError
from tests.algorithms.tiny import examples_of, make, settings_of
from tests.data.tiny import tiny_tokenizer
from tests.models.tiny import EOS, lora, tiny_llama, tree
from tests.training.tiny import run


@pytest.mark.parametrize("name", ["sft", "dpo", "kto", "grpo", "rloo", "ppo"])
def test_non_finite_numbers_stop_the_run_with_weights_whole_and_the_batch_kept(name: str, tmp_path: Path):
    algorithm = make(name)
    before = {key: value.clone() for key, value in algorithm.state_dict().items()}
    forward, calls = algorithm.forward, []

    def broken(batch):
        loss = forward(batch)
        calls.append(batch)
        return loss._replace(total=loss.total * torch.tensor(float("nan")))

    algorithm.forward = broken
    with pytest.raises(NonFiniteError, match=r"step 0: loss nan.*nonfinite-step-0-rank-0\.jsonl"):
        run(algorithm, examples_of(name), settings_of(name), tmp_path / "checkpoints")
    for key, value in algorithm.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(parameter.grad is None for parameter in algorithm.parameters())
    kept = read_examples(tmp_path / "nonfinite-step-0-rank-0.jsonl")
    assert all(example.tree in calls[0].trees for example in kept)  # sampled completions included
    assert len(kept) == len(calls[0].trees) == 4
    assert all(example.tree.completions for example in kept)


def test_an_infinite_gradient_of_a_finite_loss_stops_too(tmp_path: Path):
    algorithm = make("sft")
    algorithm.policy.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = algorithm.policy.lm_head.weight.detach().clone()
    with pytest.raises(NonFiniteError, match="gradient norm"):
        run(algorithm, examples_of("sft"), settings_of("sft"), tmp_path / "checkpoints")
    assert torch.equal(algorithm.policy.lm_head.weight, before)


def test_evaluates_at_the_start_every_few_steps_and_at_the_end(tmp_path: Path):
    settings = settings_of("sft", max_steps=5, eval_steps=2)
    memory = run(
        make("sft"), examples_of("sft"), settings, tmp_path, evaluate=lambda: Evaluation({"eval/x": 1.0})
    )
    assert list(memory.curve("eval/x")) == [0, 2, 4, 5]
    tenths = run(make("sft"), examples_of("sft"), settings_of("sft", max_steps=12, eval_steps=0.3), tmp_path / "tenths",
                 evaluate=lambda: Evaluation({"eval/x": 1.0}))  # fmt: skip
    assert list(tenths.curve("eval/x")) == [0, 4, 8, 12]  # 3.6 steps, rounded up
    only_ends = run(make("sft"), examples_of("sft"), settings_of("sft", max_steps=5), tmp_path,
                    evaluate=lambda: Evaluation({"eval/x": 1.0}))  # fmt: skip
    assert list(only_ends.curve("eval/x")) == [0, 5]


def test_logged_rates_follow_the_schedule_not_the_minibatches(tmp_path: Path):
    settings = settings_of("ppo", max_steps=4, num_ppo_epochs=2, num_mini_batches=2, learning_rate=0.01)
    memory = run(make("ppo", num_ppo_epochs=2, num_mini_batches=2), examples_of("ppo"), settings, tmp_path)
    # warm-up of one step, then down over three
    assert list(memory.curve("train/learning_rate").values()) == pytest.approx(
        [0.005, 0.01, 0.02 / 3, 0.01 / 3]
    )
    assert memory.curve("objective/kl_k1")[1] == 0
    names = {"train/policy_loss", "train/value_loss", "train/entropy", "train/clip_fraction", "objective/scores",
             "rollout/length", "rollout/no_eos_share", "perf/tokens_per_second"}  # fmt: skip
    assert all(len(memory.curve(name)) == 4 for name in names)


def test_two_runs_have_the_same_bits(tmp_path: Path):
    weights = []
    for attempt in range(2):
        torch.manual_seed(attempt)  # what ran before does not matter
        algorithm = make("grpo")
        run(algorithm, examples_of("grpo"), settings_of("grpo"), tmp_path / str(attempt))
        weights.append(algorithm.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("adapters", [False, True])
def test_sft_learns_to_stop_and_still_stops_after_save_and_reload(adapters: bool, tmp_path: Path):
    """The end token is trained on, and pad == eos in the saved model masks nothing of it."""
    tiny_llama().save_pretrained(tmp_path / "base")
    answers = {10: [20, 21, EOS], 11: [22, EOS], 12: [23, 24, 25, 26, EOS], 13: [27, 28, EOS]}
    examples = [Example(tree([1, key], answer), "", None, {}) for key, answer in answers.items()]
    algorithm = make("sft", add_adapter(load_model(tmp_path / "base"), lora(on=adapters, lora_r=16)))
    settings = settings_of("sft", max_steps=100, learning_rate=2e-2, weight_decay=0.0)
    memory = run(algorithm, examples, settings, tmp_path / "checkpoints")
    assert memory.curve("train/loss")[100] < 0.5 < memory.curve("train/loss")[1]

    save_model(
        algorithm.policy, tiny_tokenizer(), tmp_path / "model", merge_adapter=True, base=tmp_path / "base"
    )
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    assert plain.generation_config.eos_token_id == plain.config.pad_token_id == EOS
    for key, answer in answers.items():
        generated = plain.generate(torch.tensor([[1, key]]), attention_mask=torch.ones(1, 2, dtype=torch.long),
                                   max_new_tokens=30, do_sample=False)  # fmt: skip
        assert generated[0, 2:].tolist() == answer
    rollouts = Sampler(load_model(tmp_path / "model"), [EOS]).sample(
        [[1, key] for key in answers], 1, 30, 0.0
    )
    assert [rollout.tree.completions[0].input_ids for rollout in rollouts] == list(answers.values())
    assert all(rollout.finished == [True] for rollout in rollouts)


@pytest.mark.parametrize("name", ["grpo", "rloo", "ppo"])
def test_rl_raises_what_is_rewarded(name: str, tmp_path: Path):
    settings = settings_of(name, max_steps=25, batch_size=8, learning_rate=5e-3)
    memory = run(make(name), examples_of(name), settings, tmp_path)
    scores = list(memory.curve("objective/scores").values())
    assert sum(scores[-5:]) / 5 > sum(scores[:5]) / 5 + 0.1


@pytest.mark.parametrize("name", ["dpo", "kto", "reward_model"])
def test_preferences_are_learnt(name: str, tmp_path: Path):
    settings = settings_of(name, max_steps=20, batch_size=8, learning_rate=5e-3)
    memory = run(make(name), examples_of(name), settings, tmp_path)
    assert memory.curve("train/accuracy")[20] == 1.0
    assert memory.curve("train/loss")[20] < 0.3
