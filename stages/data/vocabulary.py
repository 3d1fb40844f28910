"""Whether the model has an embedding for every token that the data are made of."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.dataset import Dataset


def check_vocabulary(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, size: int | None) -> None:
    """Raise UserError for a token whose id is not below `size`. None: the size is not known.

    Not for the tokenizer's own size: Gemma 3's has one token, for images, that its language model has not.
    """
    if size is None:
        return
    nodes = (
        node for example in dataset.examples for node in [example.tree.prompt, *example.tree.completions]
    )
    largest = max((max(node.input_ids, default=0) for node in nodes), default=0)
    if largest >= size:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise UserError(
            f"model.path: the tokenizer writes {token!r} in data.{dataset.role} as number {largest}, and the model has "
            f"{size} tokens (vocab_size in config.json): take the model's own tokenizer, or resize its embeddings"
        )
