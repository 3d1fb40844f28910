"""What a chat template writes up to where an answer begins, and up to where it ends."""

from __future__ import annotations

from stages.data.records import BadRow, Message
from stages.data.template import Template, Tools
from stages.data.written import thought_of

THOUGHT = "<think>"


class TurnTexts:
    """A template's openings and closings, the second continuing the first."""

    def __init__(self, template: Template) -> None:
        self.template = template

    def opening(self, prompt: list[Message], tools: Tools) -> str:
        """The prompt, up to where the assistant begins. Raises BadRow."""
        return self.template.render(prompt, tools, generate=True)

    def closing(self, dialogue: list[Message], tools: Tools, opening: str) -> str:
        """The dialogue with its last turn, as it goes on after `opening`. Raises BadRow where it does not."""
        closing = self.template.render(dialogue, tools, generate=False)
        if closing.startswith(opening):
            return closing
        # DeepSeek-R1's and QwQ's: an answer is generated after an opened thought, and kept without it.
        head = opening.rstrip().removesuffix(THOUGHT)
        if head != opening.rstrip() and closing.startswith(head):
            if thought := thought_of(dialogue[-1]):
                return f"{opening}{thought}\n</think>\n\n{closing[len(head) :].lstrip()}"
            raise BadRow(
                "the chat template opens a thought and the answer has none",
                f"the chat template has every answer begin with a thought ({THOUGHT}), and this one has none: give "
                "the message 'reasoning_content'",
            )
        raise BadRow(
            "the chat template is not prefix-stable",
            f"the chat template is not prefix-stable: before an answer it writes {opening[-40:]!r}, and an answer "
            "in it does not begin so: mend the model's chat_template.jinja, or set data.chat: never",
        )

    def whole(self, dialogue: list[Message], tools: Tools) -> str:
        """A dialogue to the end of its last answer, or up to where one begins."""
        if dialogue[-1]["role"] != "assistant":
            return self.opening(dialogue, tools)
        return self.closing(dialogue, tools, self.opening(dialogue[:-1], tools))
