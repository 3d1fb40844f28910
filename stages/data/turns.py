"""One message of a conversation, out of the spellings that files of this field use. All raise BadRow."""

from __future__ import annotations

from typing import Any, NoReturn

from stages.data.records import BadRow, Message
from stages.data.tools import is_empty, to_calls

ROLES = {"system", "developer", "user", "assistant", "tool"}
# Other names of the same: ShareGPT's, OASST's, Gemini's; of a tool's answer, those of OpenAI's first form, GLM, Llama.
OTHER_ROLES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "model", "bot", "ai"), "assistant"),
    **dict.fromkeys(("function", "function_response", "tool_response", "observation", "ipython"), "tool"),
}
# ShareGPT's role of an assistant that calls: its text is the call.
CALLING = ("function_call", "tool_call", "tool_calls")
ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value", "text")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
CALL_KEYS = ("tool_calls", "function_call")
TOLD_KEYS = ("name", "tool_call_id")
# Whether a turn is a target: a false value says no to the first, a true one to the others.
TRAIN_KEYS = ("train", "trainable", "train_on_turn", "weight", "loss_weight", "loss", "loss_scale")
MASK_KEYS = ("masked", "mask")
# What a model would have to see or learn and cannot; an unknown key beside these is reported, not refused.
REFUSED_KEYS = {
    *("image", "images", "video", "videos", "audio", "audios", "file", "files", "documents", "attachments"),
    *("refusal", "train_detail", "recipient", "channel"),
}
KNOWN_KEYS = {
    *ROLE_KEYS, *TEXT_KEYS, *REASONING_KEYS, *CALL_KEYS, *TOLD_KEYS, *TRAIN_KEYS, *MASK_KEYS, *REFUSED_KEYS
}  # fmt: skip
PLAIN_KEYS = {"role", "content"}
NO, YES = (False, 0, "0", "false", "no"), (True, 1, "1", "true", "yes")


def to_message(item: Any, name: str) -> Message:
    """A message of the column `name` in the keys that templates read."""
    if not isinstance(item, dict):
        raise BadRow(f"'{name}' holds a message that is not an object with 'role' and 'content'")
    role, text = _role(item, name), _text(item, name)
    calls = _calls(item, name)
    if item.get("role", item.get("from")) in CALLING:
        text, calls = "", to_calls(text, name)
    if role == "assistant" and not text.strip() and not calls:
        raise BadRow(f"'{name}' has a message without text", f"'{name}': the message of {role!r} has no text")
    message = Message(role=role, content=text)
    if item.keys() != PLAIN_KEYS:
        _add_other_keys(message, item, calls, name)
    return message


def unread_keys(item: Any) -> set[str]:
    """Keys of a message that say something and that nothing reads."""
    if not isinstance(item, dict) or item.keys() <= KNOWN_KEYS:
        return set()
    return {str(key) for key, value in item.items() if key not in KNOWN_KEYS and not is_empty(value)}


def _role(item: dict[str, Any], name: str) -> str:
    role = next((item[key] for key in ROLE_KEYS if item.get(key) is not None), None)
    if isinstance(role, str):
        if role in ROLES:
            return role
        role = OTHER_ROLES.get(role.lower(), "assistant" if role in CALLING else role.lower())
    if role not in ROLES:
        raise BadRow(
            f"'{name}' has an unknown role", f"'{name}' has the role {role!r}; known are {sorted(ROLES)}"
        )
    return str(role)


def _text(item: dict[str, Any], name: str) -> str:
    content = _only(item, TEXT_KEYS, name)
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, name) for part in content)
    if content is None and any(not is_empty(item.get(key)) for key in CALL_KEYS):
        return ""  # OpenAI's null beside a call
    role = item.get("role", item.get("from"))
    raise BadRow(f"'{name}' has a message without text", f"'{name}': the message of {role!r} has no text")


def _part(part: Any, name: str) -> str:
    """A part of a content that is a list: text alone can be trained on."""
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    if isinstance(part, dict) and kind in ("text", "input_text", "output_text"):
        text = next(
            (part[key] for key in ("text", "value", "content") if isinstance(part.get(key), str)), None
        )
        if text is not None:
            return text
    detail = f"'{name}' has a message with a part of the type '{kind}'; only text can be trained on"
    raise BadRow(f"'{name}' has a part that is not text", detail)


def _calls(item: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [call for key in CALL_KEYS if not is_empty(item.get(key)) for call in to_calls(item[key], name)]


def _add_other_keys(message: Message, item: dict[str, Any], calls: list[dict[str, Any]], name: str) -> None:
    for key in sorted(REFUSED_KEYS & item.keys()):
        if not is_empty(item[key]):
            _refuse(name, key, "which cannot be trained on")
    if calls:
        if message["role"] != "assistant":
            _refuse(name, "tool_calls", f"in a message of '{message['role']}'")
        message["tool_calls"] = calls
    reasoning = _only(item, REASONING_KEYS, name)
    if not is_empty(reasoning):
        if not isinstance(reasoning, str) or message["role"] != "assistant":
            _refuse(name, "reasoning_content", "that is not an assistant's text")
        message["reasoning_content"] = reasoning
    for key in TOLD_KEYS:
        if not is_empty(item.get(key)):
            message[key] = str(item[key])
    trained = _trained(item, name)
    if message["role"] != "assistant" and trained:
        _refuse(
            name,
            "train",
            f"(or weight) for a message of '{message['role']}': only an assistant's are targets",
        )
    if message["role"] == "assistant" and trained is False:
        message["train"] = False


def _trained(item: dict[str, Any], name: str) -> bool | None:
    """Whether the keys for it say that this turn is a target; None where they say nothing."""
    said = {
        key: _truth(item[key], key, name) for key in (*TRAIN_KEYS, *MASK_KEYS) if item.get(key) is not None
    }
    answers = {value != (key in MASK_KEYS) for key, value in said.items()}
    if len(answers) > 1:
        raise BadRow(f"'{name}' has a message whose {', '.join(said)} contradict each other")
    return answers.pop() if answers else None


def _truth(value: Any, key: str, name: str) -> bool:
    value = value.strip().lower() if isinstance(value, str) else value
    if not isinstance(value, str | bool | int | float) or value not in (*NO, *YES):
        _refuse(name, key, f"of {value!r}; known are true and false, 1 and 0")
    return value in YES


def _only(item: dict[str, Any], keys: tuple[str, ...], name: str) -> Any:
    """The value of one of several keys for the same thing."""
    said = {key: item[key] for key in keys if item.get(key) is not None}
    values = list(said.values())
    if any(value != values[0] for value in values[1:]):
        raise BadRow(f"'{name}' has a message whose {' and '.join(said)} differ")
    return values[0] if values else None


def _refuse(name: str, key: str, why: str) -> NoReturn:
    raise BadRow(f"'{name}' has a message with '{key}'", f"'{name}' has a message with '{key}' {why}".strip())
