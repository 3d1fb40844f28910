"""PPO: what an episode is worth, who is masked, and that statistics are those of every rank."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

import stages.algorithms.ppo
from stages.algorithms.batch import batch_of
from stages.algorithms.minibatches import Minibatches
from stages.algorithms.ppo import PPO
from stages.data.examples import Example
from stages.models.load import add_adapter
from stages.rollout.rollout import Rollout
from stages.rollout.sampler import Sampler
from tests.algorithms.tiny import (
    Ranks,
    Replay,
    examples_of,
    experience_of,
    make,
    parts_of,
    replay,
    settings_of,
)
from tests.models.tiny import EOS, lora, shake, tiny_llama, tree


class Written(Sampler):
    """Completions that a test wrote by hand, the second one cut off before its end token."""

    def sample(self, prompts, num_generations, max_new_tokens, temperature=1.0) -> list[Rollout]:
        completions = [[10, 11, EOS], [12, 13]]
        return [
            Rollout(tree(prompt, *completions), [[-1.0] * 3, [-1.0] * 2], [True, False]) for prompt in prompts
        ]


def written(penalty: float, **changes):
    policy = tiny_llama()
    settings = settings_of("ppo", missing_eos_penalty=penalty, num_generations=2, temperature=1.0, **changes)
    algorithm = PPO(settings, parts_of(policy, lambda _examples, trees: [1.0, 0.5] * len(trees), eos=[EOS]))
    replay(algorithm, Written(policy, [EOS]))
    return algorithm


def test_missing_eos_costs_the_penalty_and_the_score_lands_on_the_last_token():
    algorithm = written(penalty=2.0, kl_coef=0.0, gae_lambda=1.0)
    (batch,) = experience_of(algorithm, examples_of("ppo", 1))
    # values start at 0 and lambda is 1, so the return of every token is the score: 1, and 0.5 - 2
    order = 0 if len(batch.trees[0].completions[0].input_ids) == 3 else 1
    assert batch["returns"].tolist()[order] == [1.0, 1.0, 1.0]
    assert batch["returns"].tolist()[1 - order] == [-1.5, -1.5, 0.0]
    assert batch["old_values"].tolist() == [[0.0] * 3] * 2
    assert algorithm.reference is None  # kl_coef 0 asks for none
    assert algorithm.observed["objective/scores"][0].tolist() == [1.0, -1.5]
    assert algorithm.observed["rollout/no_eos_share"][0].tolist() == [0.0, 1.0]
    # whitened: 1 three times and -1.5 twice have mean 0 and deviation sqrt((3 + 4.5) / 5) = 1.224745
    advantages = batch["advantages"][order].tolist() + batch["advantages"][1 - order].tolist()
    assert advantages == pytest.approx([0.816497] * 3 + [-1.224745] * 2 + [0.0], abs=1e-5)


def test_centered_scores_are_those_less_their_prompt_s_mean():
    algorithm = written(penalty=2.0, kl_coef=0.0, gae_lambda=1.0, center_scores=True)
    (batch,) = experience_of(algorithm, examples_of("ppo", 2))
    # 1 and 0.5 - 2 have the mean -0.25
    returns = sorted(max(row, key=abs) for row in batch["returns"].tolist())
    assert returns == [-1.25, -1.25, 1.25, 1.25]
    assert algorithm.observed["objective/scores"][0].tolist() == [1.0, -1.5] * 2  # what is logged stays
    with pytest.raises(ValueError, match="set num_generations to 2 or more"):
        settings_of("ppo", center_scores=True, num_generations=1)


def test_entropy_counts_completion_tokens_only():
    """A batch with padding has the entropy of its rows one by one."""
    algorithm = written(penalty=0.0)
    (batch,) = experience_of(algorithm, examples_of("ppo", 3))
    whole = algorithm(batch)
    assert float(whole.weight) == 15  # 3 x (3 + 2) tokens
    single = [algorithm(batch.take([index])) for index in range(3)]
    total = sum(float(one.metrics["train/entropy"]) for one in single)
    assert float(whole.metrics["train/entropy"]) == pytest.approx(total, rel=1e-5)
    logits = tiny_llama()(torch.tensor([[*batch.trees[0].prompt.input_ids, 10, 11, EOS]])).logits[0, -4:-1]
    first = torch.distributions.Categorical(logits=logits).entropy().sum()
    logits = tiny_llama()(torch.tensor([[*batch.trees[0].prompt.input_ids, 12, 13]])).logits[0, -3:-1]
    second = torch.distributions.Categorical(logits=logits).entropy().sum()
    assert float(single[0].metrics["train/entropy"]) == pytest.approx(
        float((first + second).detach()), rel=1e-4
    )


def test_advantages_are_whitened_over_both_ranks(monkeypatch):
    algorithm, examples = make("ppo"), examples_of("ppo")
    replay(algorithm, Replay(algorithm.parts.sampler, examples, settings_of("ppo")))
    (whole,) = experience_of(algorithm, examples)
    expected = {tuple(t.prompt.input_ids): whole.take([i])["advantages"] for i, t in enumerate(whole.trees)}
    ranks = Ranks(2)
    monkeypatch.setattr(stages.algorithms.ppo, "sum_over_ranks", ranks.sum)
    copies = [copy.deepcopy(algorithm) for _ in range(2)]
    parts = ranks.run(lambda rank: experience_of(copies[rank], examples[rank::2])[0])
    for part in parts:
        for index, one in enumerate(part.trees):
            torch.testing.assert_close(part.take([index])["advantages"], expected[tuple(one.prompt.input_ids)],
                                       rtol=1e-4, atol=1e-5)  # fmt: skip


def test_clipped_tokens_have_no_gradient():
    """Old logprobs 1 nat lower make every ratio e > 1.2: with a positive advantage nothing is left to gain."""
    algorithm = written(penalty=0.0, vf_coef=0.0, num_ppo_epochs=2)
    batch, _ = experience_of(algorithm, examples_of("ppo", 2))
    moved = batch.with_fields(
        old_logprobs=batch["old_logprobs"] - 1, advantages=torch.ones_like(batch["advantages"])
    )
    loss = algorithm(moved)
    assert float(loss.metrics["train/clip_fraction"]) == float(loss.weight) == 10
    assert float(loss.total.detach()) == pytest.approx(-1.2 * 10)
    loss.total.backward()
    assert not any(p.grad.any() for p in algorithm.policy.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["ppo", "grpo"])
@pytest.mark.parametrize("on", [True, False])
def test_first_step_has_kl_0_ratio_1_and_the_samplers_logprobs(name: str, on: bool):
    """At temperature 0.7 everywhere: a forward that forgot it would be off by tenths of a nat."""
    algorithm = make(name, add_adapter(tiny_llama(), lora(on=on)))
    (batch,) = experience_of(algorithm, examples_of(name))
    loss = algorithm(batch)
    kl = algorithm.observed.get("objective/kl_k1") or [loss.metrics["objective/kl_k1"][None]]
    assert not torch.cat(kl).any()  # exactly
    difference = algorithm.observed.get("rollout/logprob_difference") or [
        loss.metrics["rollout/logprob_difference"].detach() / loss.weight
    ]
    values = torch.cat([each.reshape(-1) for each in difference])
    assert float(values.max()) < 1e-4
    assert 0 < float(values.mean()) < 1e-5
    assert float(loss.metrics["train/ratio"].detach()) == float(loss.weight)
    assert float(loss.metrics["train/clip_fraction"]) == 0


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_sampled_tokens_reach_rewards_and_loss_as_they_are(name: str):
    """Token in, token out: nothing on the way knows a tokenizer."""
    seen = []
    algorithm, examples = make(name), examples_of(name)
    sampler = Replay(algorithm.parts.sampler, examples, settings_of(name))
    replay(algorithm, sampler)
    algorithm.parts.rewards.sources["verifier"] = lambda _, trees: (
        seen.extend(trees) or [float(i) for i in range(sum(len(t.completions) for t in trees))]
    )
    (batch,) = experience_of(algorithm, examples)
    drawn = {key: rollout.tree for key, rollout in sampler.drawn.items()}
    assert seen == [drawn[tuple(example.tree.prompt.input_ids)] for example in examples]
    assert all(one == drawn[tuple(one.prompt.input_ids)] for one in batch.trees)


def test_kl_is_seen_once_the_policy_moves():
    algorithm = make("ppo")
    shake(algorithm.policy, 0.05)
    experience_of(algorithm, examples_of("ppo"))
    assert float(torch.cat(algorithm.observed["objective/kl_k1"]).abs().min()) > 0


def test_minibatches_visit_every_tree_once_per_epoch():
    algorithm = make("ppo", num_ppo_epochs=2, num_mini_batches=3)
    batches = experience_of(algorithm, examples_of("ppo"))
    parts = [[tuple(tree.prompt.input_ids) for tree in batch.trees] for batch in batches]
    for epoch in (parts[:3], parts[3:]):
        assert sorted(map(len, epoch)) == [2, 3, 3]
        assert len({prompt for part in epoch for prompt in part}) == 8
    assert sorted(parts[:3]) == sorted(parts[3:])  # what is scored together is trained on together


def test_parts_are_drawn_at_random_and_each_epoch_takes_them_in_an_order_of_its_own():
    trees = [tree([1, 9 + index], [30, 31]) for index in range(12)]
    torch.manual_seed(0)
    drawn = [Minibatches.draw(trees, 4, max_tokens=8) for _ in range(20)]
    assert len({str(sorted(each.parts)) for each in drawn}) > 10
    assert all(sorted(index for part in each.parts for index in part) == [*range(12)] for each in drawn)
    batch = batch_of([Example(one, "", None, {}) for one in trees])
    orders = {str([part.trees for part in drawn[0].epochs(batch, 1)]) for _ in range(20)}
    assert len(orders) > 10


def test_the_value_head_has_the_width_of_the_states_that_it_sees():
    """OPT-350m projects its states of 1024 numbers to 512 before the head."""
    config = OPTConfig(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                       max_position_embeddings=128, word_embed_proj_dim=16)  # fmt: skip
    policy = add_adapter(OPTForCausalLM(config).eval(), lora())
    algorithm = PPO(
        settings_of("ppo"), parts_of(policy, lambda _examples, trees: [1.0] * len(trees), eos=[EOS])
    )
    assert algorithm.value_head.in_features == 16
    _, values = algorithm.evaluate_tokens([tree([1, 9], [7, 6], [5])])
    assert values.tolist() == [[0.0, 0.0], [0.0, 0.0]]
