"""Rewards that are Python functions: the verifiers, and `module:function` of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.examples import Example
from stages.rewards.scores import as_scores, check_finite, name_completion
from stages.rewards.signature import accepted, find_function, line_of, wanted_columns
from stages.trees import Tree


class FunctionReward:
    """Calls a function with what it names of: `prompts`, `completions` (as text) and the data's columns; with
    all of them if it takes `**columns`."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = name
        self.function = find_function(name)
        self.tokenizer = tokenizer

    def __call__(self, examples: Sequence[Example], trees: Sequence[Tree]) -> list[float | None]:
        """One score per completion, in tree order; `examples[i]` belongs to `trees[i]`.

        Raises UserError where a column is missing, the function raises, or its result is not a number or None per
        completion.
        """
        pairs = list(zip(examples, trees, strict=True))
        owners = [example for example, tree in pairs for _ in tree.completions]
        ids = [completion.input_ids for _, tree in pairs for completion in tree.completions]
        available = {column for example in examples for column in example.columns}
        wanted = wanted_columns(self.name, self.function, available)
        columns = {name: [example.columns.get(name) for example in owners] for name in wanted}
        given = {
            "prompts": [example.prompt for example in owners],
            "completions": self.tokenizer.batch_decode(ids, skip_special_tokens=True),
        }
        arguments = {name: given[name] for name in accepted(self.function)} | columns
        result = call(self.function, arguments)
        if isinstance(result, Failure):
            culprit = self._culprit(result, arguments, len(ids))
            where = (
                ""
                if culprit is None
                else f", for {name_completion(culprit, examples, trees, self.tokenizer)}"
            )
            raise UserError(f"reward '{self.name}' raised {result.text}{where}") from result.error
        scores = as_scores(self.name, result, len(ids))
        check_finite(self.name, scores, examples, trees, self.tokenizer)
        return scores

    def _culprit(self, failure: Failure, arguments: dict[str, list[Any]], count: int) -> int | None:
        """The first completion by which alone the function fails in the same way."""
        for index in range(count):
            alone = call(
                self.function, {name: values[index : index + 1] for name, values in arguments.items()}
            )
            if isinstance(alone, Failure) and type(alone.error) is type(failure.error):
                return index
        return None


class Failure(NamedTuple):
    """What a function raised, and that in words."""

    error: BaseException
    text: str


def call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """What the function returns, or how it failed: a user's may raise anything, or end the process."""
    try:
        result = function(**arguments)
        return list(result) if isinstance(result, Iterator) else result  # a generator raises while it is read
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return Failure(error, text.removesuffix(": ") + line_of(function, error))
