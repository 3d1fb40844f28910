"""Advantages by hand, and by implementations written differently."""

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from scipy.stats import zscore

from stages.advantages import center, gae, group_relative, token_rewards, whiten, whiten_about_mean


def alone(values: torch.Tensor) -> torch.Tensor:
    return values


def test_score_lands_on_the_last_token_and_kl_on_every_one():
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    kl = torch.tensor([[0.5, -0.5, 1.0], [2.0, 0.0, 9.0], [1.0, 9.0, 9.0]])
    rewards = token_rewards(torch.tensor([1.0, -2.0, 3.0]), kl, mask, kl_coef=0.1)
    # -0.1 kl, plus the score: row 0 on token 2, row 1 on token 1, row 2 on token 0
    expected = [[-0.05, 0.05, 0.9], [-0.2, -2.0, 0.0], [2.9, 0.0, 0.0]]
    torch.testing.assert_close(rewards, torch.tensor(expected))


def test_gae_by_hand():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.25, 0.5]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages = gae(rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    # d2 = 1 - 0.5 = 0.5; d1 = 0.5 * 0.5 - 0.25 = 0; d0 = 0.5 * 0.25 - 0.5 = -0.375
    # A2 = 0.5; A1 = 0 + 0.25 * 0.5 = 0.125; A0 = -0.375 + 0.25 * 0.125 = -0.34375
    assert advantages.tolist() == [[-0.34375, 0.125, 0.5]]


def test_gae_of_a_padded_row_is_that_of_the_row_alone():
    rewards, values = torch.tensor([[1.0, 2.0, 77.0, -9.0]]), torch.tensor([[0.3, -0.4, 5.0, 6.0]])
    mask = torch.tensor([[True, True, False, False]])
    padded = gae(rewards, values, mask, gamma=0.9, gae_lambda=0.8)
    single = gae(rewards[:, :2], values[:, :2], mask[:, :2], gamma=0.9, gae_lambda=0.8)
    assert padded.tolist() == [[*single[0].tolist(), 0.0, 0.0]]


def test_gae_carries_over_tokens_that_are_not_trained_on():
    """A tool's answer stands between the two turns: the advantages are those of the turns side by side."""
    rewards, values = torch.tensor([[0.0, 9.0, 9.0, 1.0, 7.0]]), torch.tensor([[0.5, 8.0, -8.0, 0.25, 6.0]])
    mask = torch.tensor([[True, False, False, True, False]])
    advantages = gae(rewards, values, mask, gamma=0.5, gae_lambda=0.5)
    # d3 = 1 - 0.25 = 0.75; d0 = 0.5 * 0.25 - 0.5 = -0.375; A0 = -0.375 + 0.25 * 0.75 = -0.1875
    assert advantages.tolist() == [[-0.1875, 0.0, 0.0, 0.75, 0.0]]


def test_gae_with_lambda_1_is_return_minus_value_and_equals_a_linear_filter():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 3, 7))
    mask = torch.ones(3, 7, dtype=torch.bool)
    tensors = torch.tensor(rewards), torch.tensor(values)
    returns = np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(gae(*tensors, mask, gamma=1.0, gae_lambda=1.0), returns - values)
    deltas = rewards + 0.97 * np.c_[values[:, 1:], np.zeros(3)] - values
    filtered = lfilter([1], [1, -0.97 * 0.9], deltas[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(gae(*tensors, mask, gamma=0.97, gae_lambda=0.9), filtered)


def test_center_by_hand():
    centered = center(torch.tensor([[1.0, 3.0, 8.0], [0.1, 0.1, 0.1], [-2.0, -2.0, 1.0]]))
    assert centered.tolist() == [[-3.0, -1.0, 4.0], [0.0, 0.0, 0.0], [-1.0, -1.0, 2.0]]
    assert center(torch.tensor([[5.0]])).tolist() == [[0.0]]


def test_group_relative_by_hand():
    # mean 0.5; unbiased deviation of 0, 0, 1, 1 = sqrt(1/3) = 0.57735; 0.5 / (0.57735 + 1e-4) = 0.865875
    advantages = group_relative(torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 2.0, 6.0]]))
    assert advantages[0].tolist() == pytest.approx([-0.865875, -0.865875, 0.865875, 0.865875], abs=1e-5)
    # mean 3, deviation sqrt((1 + 1 + 1 + 9) / 3) = 2: -1/2.0001 and 3/2.0001
    assert advantages[1].tolist() == pytest.approx([-0.499975, -0.499975, -0.499975, 1.499925], abs=1e-6)


def test_group_relative_against_scipy():
    rewards = np.random.default_rng(1).normal(size=(5, 8))
    expected = zscore(rewards, axis=1, ddof=1)
    np.testing.assert_allclose(group_relative(torch.tensor(rewards), eps=0.0), expected)


def test_without_scale_only_the_mean_is_taken_off():
    assert group_relative(torch.tensor([[0.0, 0.0, 1.0, 3.0]]), scale=False).tolist() == [
        [-1.0, -1.0, 0.0, 2.0]
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.7, 33.3, -1000.7])
def test_equal_rewards_and_a_group_of_one_give_exactly_0(size: int, reward: float):
    """0.7 seven times has a rounded mean that is not 0.7."""
    for scale in (True, False):
        assert group_relative(torch.full((2, size), reward), scale=scale).tolist() == [[0.0] * size] * 2


def test_whiten_by_hand():
    values = torch.tensor([[1.0, 3.0, 99.0], [5.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    # 1, 3, 5: mean 3, biased variance 8/3, deviation 1.632993
    expected = torch.tensor([[-1.224745, 0.0, 0.0], [1.224745, 0.0, 0.0]])
    torch.testing.assert_close(whiten(values, mask, alone), expected, atol=1e-6, rtol=0)
    # with the mean kept: -1.224745 + 3 = 1.775255, 3, 4.224745
    kept = torch.tensor([[1.775255, 3.0, 0.0], [4.224745, 0.0, 0.0]])
    torch.testing.assert_close(whiten_about_mean(values, mask, alone), kept, atol=1e-6, rtol=0)


def test_whitening_over_two_ranks_is_that_of_the_whole_batch():
    torch.manual_seed(0)
    values, mask = torch.randn(6, 5) * 3 + 1, torch.rand(6, 5) < 0.7
    whole = whiten(values, mask, alone)
    sums: list[torch.Tensor] = []
    for part in (slice(0, 2), slice(2, 6)):  # what each rank would contribute
        whiten(values[part], mask[part], lambda own: sums.append(own) or own)
    parts = [
        whiten(values[part], mask[part], lambda _: sums[0] + sums[1]) for part in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.allclose(
        whiten(values[:2], mask[:2], alone), whole[:2], atol=0.05
    )  # per rank would differ


def test_whitening_a_constant_gives_0():
    assert whiten(torch.full((2, 3), 0.7), torch.ones(2, 3, dtype=torch.bool), alone).abs().max() < 1e-3
