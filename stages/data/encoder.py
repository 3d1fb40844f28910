"""Records as trees of tokens: by the chat template or as plain text."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.chat import ChatTemplate
from stages.data.messages import as_turn
from stages.data.plain import PlainText
from stages.data.records import Record
from stages.data.settings import DataSettings
from stages.trees import Tree


class Encoder:
    """Decides once, from data.chat and the tokenizer, whether prompts are wrapped in the chat template.

    Raises UserError where data.chat asks for a template that is not there or cannot be used.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: set[int], settings: DataSettings
    ) -> None:
        self.plain = PlainText(tokenizer)
        self.chat = None
        if settings.chat == "always" and not tokenizer.chat_template:
            raise UserError("data.chat is 'always', and the model's tokenizer has no chat template")
        if settings.chat != "never" and tokenizer.chat_template:
            self.chat = ChatTemplate(tokenizer, stop_ids, settings.system_prompt)
        elif settings.system_prompt is not None:
            raise UserError(
                "data.system_prompt needs a chat template, and none is used (see data.chat and the model)"
            )
        self.stop_ids = self.chat.stop_ids if self.chat else stop_ids
        self.never = settings.chat == "never"

    def check(self, record: Record) -> None:
        """Raises UserError where conversations meet a model without a chat template."""
        if record.conversational and self.chat is None:
            why = "data.chat is 'never'" if self.never else "the model's tokenizer has no chat template"
            raise UserError(
                f"{record.where}: the data are conversational and {why}; take an instruct model or plain text"
            )

    def encode(self, record: Record) -> Tree:
        """The record as a tree. Raises BadRow where the chat template refuses it."""
        if self.chat is None or record.raw:
            return self.plain.tree(str(record.prompt), [str(completion) for completion in record.completions])
        completions = [as_turn(completion, "assistant") for completion in record.completions]
        return self.chat.tree(as_turn(record.prompt, "user"), completions)
