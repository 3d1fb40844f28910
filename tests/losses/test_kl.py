"""KL estimators: numbers by hand, and against the true divergence of a small distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from stages.losses.kl import corrected_k3, k1, k2, k3, plain_k3

# One row, three tokens: log-ratios log(pi / ref) = 0.5, -1, 0.
LOGPROBS = torch.tensor([[-1.0, -3.0, -2.0]])
REFERENCE = torch.tensor([[-1.5, -2.0, -2.0]])


def test_by_hand():
    assert k1(LOGPROBS, REFERENCE).tolist() == [[0.5, -1.0, 0.0]]
    assert k2(LOGPROBS, REFERENCE).tolist() == [[0.125, 0.5, 0.0]]
    # exp(-0.5) + 0.5 - 1 = 0.606531 - 0.5; exp(1) - 1 - 1 = 0.718282
    assert k3(LOGPROBS, REFERENCE)[0].tolist() == pytest.approx([0.106531, 0.718282, 0.0], abs=1e-6)


def test_k1_and_k3_are_unbiased_and_k3_is_never_negative():
    pi, reference = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.5, 0.3])
    log_pi, log_reference = (torch.tensor(np.log(p))[None] for p in (pi, reference))
    truth = entropy(pi, reference)  # scipy: sum p log(p / q) = 0.396053
    assert float((torch.tensor(pi) * k1(log_pi, log_reference)).sum()) == pytest.approx(truth)
    assert float((torch.tensor(pi) * k3(log_pi, log_reference)).sum()) == pytest.approx(truth)
    assert bool((k3(log_pi, log_reference) >= 0).all())


def test_gradient_of_k2_is_that_of_the_divergence_and_those_of_k1_and_k3_are_not():
    """E[grad k(x)] for x from a fixed pi, against the gradient of the divergence itself, on a softmax of 3 logits."""
    reference = torch.tensor([[0.2, 0.5, 0.3]]).log()

    def gradient(estimate) -> torch.Tensor:
        logits = torch.tensor([[0.6, 0.3, 0.1]]).log().requires_grad_()
        logprobs = logits.log_softmax(1)
        estimate(logprobs).backward()
        return logits.grad

    truth = gradient(lambda lp: torch.nn.functional.kl_div(reference, lp, reduction="sum", log_target=True))
    sampled = {
        k: gradient(lambda lp, k=k: (lp.exp().detach() * k(lp, reference)).sum()) for k in (k1, k2, k3)
    }
    torch.testing.assert_close(sampled[k2], truth)
    torch.testing.assert_close(sampled[k1], torch.zeros(1, 3))  # the score function's mean: no signal at all
    assert not torch.allclose(sampled[k3], truth, atol=0.05)
    plain = gradient(lambda lp: (lp.exp().detach() * plain_k3(lp, reference, lp.detach())).sum())
    torch.testing.assert_close(plain, sampled[k3])


@pytest.mark.parametrize("old", [[0.6, 0.3, 0.1], [0.3, 0.3, 0.4]])
def test_gradient_of_corrected_k3_is_that_of_the_divergence_wherever_tokens_were_drawn(old: list[float]):
    """Tokens are drawn from `old`: the policy itself, and one that is far from it."""
    reference, drawn = torch.tensor([[0.2, 0.5, 0.3]]).log(), torch.tensor([old])
    found = torch.tensor([[0.6, 0.3, 0.1]]).log().requires_grad_()
    logprobs = found.log_softmax(1)
    (drawn * corrected_k3(logprobs, reference, drawn.log())).sum().backward()
    exact = found.detach().clone().requires_grad_()
    divergence = torch.nn.functional.kl_div(reference, exact.log_softmax(1), reduction="sum", log_target=True)
    divergence.backward()
    torch.testing.assert_close(found.grad, exact.grad)


def test_corrected_k3_by_hand():
    """k3 of 0.606531 - 0.5 = 0.106531 and 0.718282, times ratios of exp(0.5) = 1.648721 and exp(-1) = 0.367879."""
    found = corrected_k3(LOGPROBS, REFERENCE, torch.tensor([[-1.5, -2.0, -2.0]]))
    assert found[0].tolist() == pytest.approx([0.175639, 0.264241, 0.0], abs=1e-6)


def test_far_apart_distributions_give_finite_numbers_and_gradients():
    logprobs = torch.tensor([[-500.0, -0.1]], requires_grad=True)
    loss = k3(logprobs, torch.tensor([[-0.1, -500.0]]))
    loss.sum().backward()
    # clamped at 20: exp(20) - 21 = 485165174.4; exp(-20) + 20 - 1 = 19.0
    assert loss[0].tolist() == pytest.approx([485165174.4, 19.0], rel=1e-6)
    assert bool(torch.isfinite(logprobs.grad).all())
