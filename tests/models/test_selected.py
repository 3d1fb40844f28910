"""One token's log-probability and the entropy, against torch's own chain of operations."""

from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from stages.models import selected
from stages.models.selected import selected_logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradient_are_those_of_log_softmax(temperature: float):
    torch.manual_seed(0)
    logits = (3 * torch.randn(7, 50, dtype=torch.float64)).requires_grad_()
    ids = torch.randint(0, 50, (7,))
    logprobs, entropy = selected_logprobs(logits.clone(), ids, temperature)
    expected = torch.distributions.Categorical(logits=logits / temperature)
    torch.testing.assert_close(logprobs, expected.log_prob(ids))
    torch.testing.assert_close(entropy, expected.entropy().detach())
    assert not entropy.requires_grad
    weights = torch.randn(7, dtype=torch.float64)
    found, wanted = (
        torch.autograd.grad((values * weights).sum(), logits)[0]
        for values in (logprobs, expected.log_prob(ids))
    )
    torch.testing.assert_close(found, wanted)
    # of logits that are made anew for each of its backward passes, as those of long batches are
    again = partial(
        checkpoint, lambda x: selected_logprobs(x.clone(), ids, temperature)[0], use_reentrant=False
    )
    assert torch.autograd.gradcheck(again, logits)


def test_a_token_too_unlikely_for_a_float_keeps_its_log_probability():
    logits = torch.tensor([[0.0, 200.0, -300.0]], requires_grad=True)
    logprobs, _ = selected_logprobs(logits, torch.tensor([2]), 1.0)
    assert logprobs.item() == -500.0
    logprobs.sum().backward()
    assert logits.grad is not None and logits.grad.tolist() == [[0.0, -1.0, 1.0]]


def test_the_forward_leaves_the_logits_as_they_are():
    logits = torch.randn(3, 9)
    before = logits.clone()
    selected_logprobs(logits, torch.tensor([1, 2, 3]), 1.0)
    assert torch.equal(logits, before)


def test_the_gradient_takes_the_place_of_the_logits_and_is_computed_once():
    states = torch.randn(3, 9, requires_grad=True)
    logits, places = states + 1, []
    logits.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    logprobs, _ = selected_logprobs(logits, torch.tensor([1, 2, 3]), 1.0)
    logprobs.sum().backward(retain_graph=True)
    assert places == [logits.data_ptr()]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logprobs.sum().backward()


def test_the_entropy_is_not_rounded_under_autocast():
    torch.manual_seed(0)
    logits = 20 + 2 * torch.randn(50, 400)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, entropy = selected_logprobs(logits, torch.zeros(50, dtype=torch.long), 1.0)
    expected = torch.distributions.Categorical(logits=logits.double()).entropy().float()
    torch.testing.assert_close(entropy, expected, rtol=1e-4, atol=1e-4)


def test_many_rows_are_taken_a_few_at_a_time_with_the_same_result(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    logits = (3 * torch.randn(7, 50, dtype=torch.float64)).requires_grad_()
    ids, weights = torch.randint(0, 50, (7,)), torch.randn(7, dtype=torch.float64)
    found = {}
    for rows in (1, 3, 7, 100):
        monkeypatch.setattr(selected, "ROWS_ON_CPU", rows)
        logprobs, entropy = selected_logprobs(logits.clone(), ids, 0.7)
        (gradient,) = torch.autograd.grad((logprobs * weights).sum(), logits)
        found[rows] = (logprobs, entropy, gradient)
    for rows in (1, 3, 7):
        torch.testing.assert_close(found[rows], found[100])


def test_logits_in_bf16_are_computed_with_in_float32_and_kept_in_bf16():
    torch.manual_seed(0)
    logits = (3 * torch.randn(70, 1000)).bfloat16().requires_grad_()
    ids, kept = torch.randint(0, 1000, (70,)), []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda saved: kept.append(saved) or saved, lambda saved: saved
    ):
        logprobs, entropy = selected_logprobs(logits, ids, 1.0)
    wide = logits.detach().double().requires_grad_()
    expected = torch.distributions.Categorical(logits=wide)
    torch.testing.assert_close(logprobs.double(), expected.log_prob(ids), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), expected.entropy().detach(), rtol=1e-4, atol=1e-4)
    logprobs.sum().backward()
    expected.log_prob(ids).sum().backward()
    assert logits.grad is not None and wide.grad is not None and logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=2**-8, atol=1e-7)
    assert sum(saved.nbytes for saved in kept) == logits.nbytes + 70 * (8 + 4)  # ids, and a normalizer


def test_no_rows_at_all():
    logits = torch.empty(0, 9, requires_grad=True)
    logprobs, entropy = selected_logprobs(logits, torch.empty(0, dtype=torch.long), 1.0)
    logprobs.sum().backward()
    assert logprobs.shape == entropy.shape == (0,)
