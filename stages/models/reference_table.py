"""What the reference gave to every completion that a run will ask about: computed once, then only looked up."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn

from stages.models.compiled import compiled
from stages.models.logprobs import sequence_logprobs
from stages.models.reference import adapters_off
from stages.packing import split_trees
from stages.trees import Tree


class ReferenceTable:
    """Log-probabilities of whole completions, in nats, under the policy as it was before its first step.

    The policy itself computes them, before it moves: there is no second model. Not an nn.Module: nothing of it is
    trained, saved or sharded.
    """

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy
        self.rows: dict[bytes, int] = {}
        self.values: Float[Tensor, " rows"] = torch.empty(0)

    @torch.no_grad()
    def score(self, trees: Sequence[Tree]) -> Float[Tensor, " batch"]:
        """What the policy gives now, in one pass, without its adapters."""
        with adapters_off(self.policy):
            return sequence_logprobs(self.policy, trees)

    def fill(self, keys: Iterable[bytes], values: Float[Tensor, " rows"]) -> None:
        """Know these and nothing else; keys as of `completion_keys`, of which the first one of equals counts."""
        self.rows = {}
        for row, key in enumerate(keys):
            self.rows.setdefault(key, row)
        self.values = values

    def logprobs(self, trees: Sequence[Tree]) -> Float[Tensor, " batch"]:
        """One row per completion of all trees, in order. Raises KeyError where the table was not filled with one."""
        rows = [self.rows[key] for key in completion_keys(trees)]
        return self.values[torch.tensor(rows, device=self.values.device)]


def completion_keys(trees: Iterable[Tree]) -> Iterator[bytes]:
    """Per completion: a digest of its prompt's tokens, of its own, and of which of them count."""
    for tree in trees:
        prompt = hashlib.blake2b(str(len(tree.prompt.input_ids)).encode(), digest_size=16)
        prompt.update(array("q", tree.prompt.input_ids))
        for node in tree.completions:
            key = prompt.copy()
            key.update(array("q", node.input_ids))
            key.update(bytes(node.loss_mask))
            yield key.digest()


def microbatches_once(requests: Iterable[Sequence[Tree]], max_tokens: int) -> list[list[Tree]]:
    """Microbatches that score every completion of the requests once, or with its neighbours where some of them are new.

    Each is one of those that a step on the request computes, so its numbers have the bits that training has.
    """
    seen: set[bytes] = set()
    groups: list[list[Tree]] = []
    for trees in requests:
        for indices in split_trees(trees, max_tokens):
            group = [trees[index] for index in indices]
            keys = set(completion_keys(group))
            if not keys <= seen:
                groups.append(group)
                seen |= keys
    return groups


def reference_digest(policy: nn.Module) -> str:
    """Of what the reference computes with, wherever it was loaded from: its configuration, which code its modules run,
    compiled or not, and its weights."""
    config: str = policy.config.to_json_string()  # type: ignore[operator,union-attr]
    code = {f"{module.forward.__module__}.{module.forward.__qualname__}" for module in policy.modules()}
    digest = hashlib.sha256(" ".join([config, *sorted(code), f"compiled: {compiled(policy)}"]).encode())
    adapted = isinstance(policy, PeftModel)
    for parameter in policy.parameters():
        if not (
            adapted and parameter.requires_grad
        ):  # what is trained beside a frozen model are its adapters
            digest.update(f"{parameter.dtype} {tuple(parameter.shape)} ".encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
