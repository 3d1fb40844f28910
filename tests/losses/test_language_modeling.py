"""The language-modelling loss."""

import torch

from stages.losses.language_modeling import negative_log_likelihood


def test_masked_tokens_cost_nothing():
    logprobs = torch.tensor([[-0.5, -2.0, -3.0], [-1.0, -4.0, 0.0]])
    mask = torch.tensor([[True, False, True], [True, True, False]])
    assert negative_log_likelihood(logprobs, mask).tolist() == [[0.5, 0.0, 3.0], [1.0, 4.0, 0.0]]
