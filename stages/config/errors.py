"""The one error that a user can cause, and mend."""


class UserError(Exception):
    """Bad input: the message is one clear line that names the file, row or key, and what to do."""
