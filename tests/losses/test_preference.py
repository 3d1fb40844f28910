"""Losses on pairs: numbers by hand and invariants."""

import math

import pytest
import torch

from stages.losses.preference import bradley_terry, hinge, ipo, sigmoid

CHOSEN, REJECTED = torch.tensor([2.0, 0.0, -1.0]), torch.tensor([0.0, 0.0, 1.0])


def test_bradley_terry():
    # log(1 + exp(-2)) = 0.126928, log 2, log(1 + exp(2)) = 2.126928
    assert bradley_terry(CHOSEN, REJECTED).tolist() == pytest.approx([0.126928, 0.693147, 2.126928], abs=1e-6)
    torch.testing.assert_close(bradley_terry(CHOSEN + 7, REJECTED + 7), bradley_terry(CHOSEN, REJECTED))


def test_sigmoid():
    # beta 0.5 makes the margins 1, 0, -1: log(1 + 1/e) = 0.313262, log 2, log(1 + e) = 1.313262
    assert sigmoid(CHOSEN, REJECTED, beta=0.5).tolist() == pytest.approx(
        [0.313262, 0.693147, 1.313262], abs=1e-6
    )
    # 10 % flipped: 0.9 * 0.313262 + 0.1 * 1.313262 = 0.413262; at a tie still log 2; 0.9 * 1.313262 + 0.0313262
    smoothed = sigmoid(CHOSEN, REJECTED, beta=0.5, label_smoothing=0.1)
    assert smoothed.tolist() == pytest.approx([0.413262, 0.693147, 1.213262], abs=1e-6)


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_policy_equal_to_reference_gives_log_2(beta: float):
    assert sigmoid(torch.zeros(1), torch.zeros(1), beta=beta).item() == pytest.approx(math.log(2))


def test_hinge():
    # 1 - 0.5 * margin of 2, 0, -2
    assert hinge(CHOSEN, REJECTED, beta=0.5).tolist() == [0.0, 1.0, 2.0]
    assert hinge(CHOSEN, REJECTED, beta=5.0).tolist() == [0.0, 1.0, 11.0]


def test_ipo_is_least_at_a_margin_of_half_the_inverse_beta():
    # beta 0.25: (margin - 2)^2 of 2, 0, -2
    assert ipo(CHOSEN, REJECTED, beta=0.25).tolist() == [0.0, 4.0, 16.0]


@pytest.mark.parametrize("loss", [sigmoid, ipo])
def test_gradient_raises_the_chosen_and_lowers_the_rejected(loss):
    chosen, rejected = torch.tensor([0.3], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    loss(chosen, rejected, beta=0.1).sum().backward()
    assert chosen.grad.item() < 0 < rejected.grad.item()
    assert chosen.grad.item() == pytest.approx(-rejected.grad.item())


def test_extreme_margins_stay_finite():
    far = torch.tensor([1e4, -1e4])
    assert sigmoid(far, -far, beta=1.0).tolist() == [0.0, 20000.0]
