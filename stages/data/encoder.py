"""Records as trees of tokens: by the chat template or as plain text."""

from __future__ import annotations

import logging

from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.chat import ChatTemplate
from stages.data.messages import as_turn
from stages.data.plain import PlainText
from stages.data.records import BadRow, Record
from stages.data.settings import DataSettings
from stages.data.template import Template
from stages.trees import Tree

log = logging.getLogger(__name__)


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
            template = Template(tokenizer, settings.chat_template_kwargs, settings.chat_template_date)
            self.chat = ChatTemplate(template, stop_ids, settings.system_prompt)
            if template.dated:
                log.info(
                    "the chat template writes a date: %s (data.chat_template_date)",
                    settings.chat_template_date,
                )
        for key in ("system_prompt", "chat_template_kwargs"):
            if getattr(settings, key) not in (None, {}) and self.chat is None:
                raise UserError(
                    f"data.{key} needs a chat template, and none is used (see data.chat and the model)"
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

    def encode(self, record: Record, *, split: bool = False) -> list[Tree]:
        """The record as a tree; where `split`, as one for each answer if the chat template makes that necessary.

        Raises LeftOut, and BadRow where the text cannot be written as it should be.
        """
        if self.chat is None or record.raw:
            tree = self.plain.tree(str(record.prompt), [str(completion) for completion in record.completions])
            # Text without a prompt may hold several documents, and what ends them.
            if record.prompt:
                self._check_ends(tree)
            return [tree]
        completions = [as_turn(completion, "assistant") for completion in record.completions]
        return self.chat.trees(as_turn(record.prompt, "user"), completions, record.tools, split=split)

    def _check_ends(self, tree: Tree) -> None:
        """Raises BadRow where a completion would end in its middle."""
        for completion in tree.completions:
            if found := self.stop_ids.intersection(completion.input_ids[:-1]):
                token = self.plain.tokenizer.convert_ids_to_tokens(min(found))
                raise BadRow(
                    "a control token in a completion",
                    f"a completion holds the token {token}, with which it would end there (one is added at its end): "
                    "write it in another way",
                )
