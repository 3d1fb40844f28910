"""The one error that a user can cause, and mend."""


class UserError(Exception):
    """Bad input: the message is one clear line that names the file, row or key, and what to do."""


def first_line(error: Exception) -> str:
    """What another library's error says, without what follows its first line, or its second where the first ends in a
    colon."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
