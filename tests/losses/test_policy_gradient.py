"""PPO's losses: each side of the clip by hand."""

import math

import pytest
import torch

from stages.losses.policy_gradient import clip_fraction, clipped, clipped_value, ratio

OLD = torch.zeros(1, 6)
# ratios 1, 1.5, 1.5, 0.5, 0.5, 1.1
LOGPROBS = torch.tensor([[1.0, 1.5, 1.5, 0.5, 0.5, 1.1]]).log()
ADVANTAGES = torch.tensor([[2.0, 2.0, -2.0, 2.0, -2.0, 3.0]])
MASK = torch.ones(1, 6, dtype=torch.bool)


def test_each_side_of_the_clip():
    losses = clipped(LOGPROBS, OLD, ADVANTAGES, MASK, low=0.2, high=0.2)
    # -min(r A, clip(r, 0.8, 1.2) A):
    # 1*2 = 2 | min(3, 2.4) = 2.4 | min(-3, -2.4) = -3 | min(1, 1.6) = 1 | min(-1, -1.6) = -1.6 | 1.1*3 = 3.3
    assert losses[0].tolist() == pytest.approx([-2.0, -2.4, 3.0, -1.0, 1.6, -3.3])


def test_gradient_vanishes_only_where_the_clip_binds():
    logprobs = LOGPROBS.clone().requires_grad_()
    clipped(logprobs, OLD, ADVANTAGES, MASK, low=0.2, high=0.2).sum().backward()
    # d/dlogp of -r A = -r A, where not clipped: -2 | 0 | 3 | -1 | 0 | -3.3
    assert logprobs.grad[0].tolist() == pytest.approx([-2.0, 0.0, 3.0, -1.0, 0.0, -3.3])


def test_unequal_clip_and_its_fraction():
    losses = clipped(LOGPROBS, OLD, ADVANTAGES, MASK, low=0.6, high=0.3)
    # the range is [0.4, 1.3]: only 1.5 is cut, to 1.3 * 2 = 2.6 where A > 0
    assert losses[0].tolist() == pytest.approx([-2.0, -2.6, 3.0, -1.0, 1.0, -3.3])
    assert clip_fraction(LOGPROBS, OLD, MASK, low=0.6, high=0.3).sum() == 2
    assert clip_fraction(LOGPROBS, OLD, MASK, low=0.2, high=0.2).sum() == 4


def test_masked_tokens_have_no_loss_gradient_or_share():
    mask = torch.tensor([[True, False, True, False, False, False]])
    logprobs = LOGPROBS.clone().requires_grad_()
    losses = clipped(logprobs, OLD, ADVANTAGES, mask, low=0.2, high=0.2)
    losses.sum().backward()
    assert losses[0].tolist() == pytest.approx([-2.0, 0, 3.0, 0, 0, 0])
    assert logprobs.grad[0, [1, 3, 4, 5]].tolist() == [0, 0, 0, 0]
    assert clip_fraction(LOGPROBS, OLD, mask, low=0.2, high=0.2).sum() == 1


def test_ratio_never_overflows():
    logprobs = torch.tensor([[0.0, -2000.0]], requires_grad=True)
    ratios = ratio(logprobs, torch.tensor([[-2000.0, 0.0]]))
    assert ratios[0].tolist() == pytest.approx([math.exp(20), math.exp(-20)], rel=1e-5)


def test_value_loss_takes_the_worse_of_moved_and_clipped():
    values, old = torch.tensor([[1.0, 0.1, -1.0, 5.0]]), torch.zeros(1, 4)
    returns = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    mask = torch.tensor([[True, True, True, False]])
    losses = clipped_value(values, old, returns, mask, clip_range=0.2)
    # V clipped to 0.2, 0.1, -0.2: 0.5 max(0, 0.64) = 0.32 | 0.5 * 0.81 = 0.405 | 0.5 max(4, 1.44) = 2 | masked
    assert losses[0].tolist() == pytest.approx([0.32, 0.405, 2.0, 0.0])
