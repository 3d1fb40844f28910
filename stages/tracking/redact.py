"""What is never written down: users, passwords and tokens in addresses, and values whose key says secret."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO
from urllib.parse import unquote

from omegaconf import DictConfig, ListConfig, OmegaConf

HIDDEN = "***"
# scheme://user:password@host. SQLAlchemy takes a password with a slash, too; what follows a port is a path.
USERINFO = re.compile(r"(?<=://)(?:[^\s/?#]*|[^\s/?#:@]*:(?!\d+[/?#])[^\s@]*)@")
# ?token=…, &sig=…, also as a fragment
QUERY = re.compile(
    r"([?&;#][\w.-]*(?:token|secret|passw|pwd|api_?key|access_?key|sig|credential|odbc_connect)[\w.-]*=)[^\s&;#\"']+",
    re.IGNORECASE,
)
SECRET_KEY = re.compile(
    r"(?:^|[._])(?:password|passwd|secret|token|api_?key|access_?key|credentials?)$", re.IGNORECASE
)
ENVIRONMENT = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
SHORTEST = 4  # a shorter secret would be found in every other word


def redact(text: str) -> str:
    """The text without what addresses in it keep secret."""
    return QUERY.sub(rf"\1{HIDDEN}", USERINFO.sub("", text))


def redact_override(override: str) -> str:
    """The same of `key=value` on a command line."""
    key, equals, value = override.partition("=")
    return key + equals + (HIDDEN if equals and SECRET_KEY.search(key) else redact(value))


def without_secrets(config: DictConfig) -> DictConfig:
    """A copy to write down."""
    copy = config.copy()
    OmegaConf.set_readonly(copy, False)
    hide(copy)
    return copy


def hide(node: Any) -> None:
    """Replace what is secret in a section and those below it."""
    for key in node if isinstance(node, DictConfig) else range(len(node)):
        value = node[key]
        if isinstance(value, DictConfig | ListConfig):
            hide(value)
        elif isinstance(value, str):
            shown = HIDDEN if SECRET_KEY.search(str(key)) else redact(value)
            if shown != value:  # an interpolation stays one
                node[key] = shown


def secrets(environment: Mapping[str, str]) -> list[str]:
    """The secrets that are known by value, as they are and unquoted, the longest first."""
    found = [environment.get(name, "") for name in ENVIRONMENT]
    for userinfo in USERINFO.findall(environment.get("MLFLOW_TRACKING_URI", "")):
        user, _, password = userinfo.removesuffix("@").partition(":")
        found += (
            [password, unquote(password)] if password else [user, unquote(user)]
        )  # a token alone is the user
    return sorted({secret for secret in found if len(secret) >= SHORTEST}, key=len, reverse=True)


def scrub(text: str) -> str:
    """`redact`, and without the secrets of this process's environment wherever they stand: for words of others."""
    shown = redact(text)
    for secret in secrets(os.environ):
        shown = shown.replace(secret, HIDDEN)
    return shown


class ScrubbedStream(io.TextIOBase):
    """Passes text on without secrets. It never raises: a full disk must not end who writes a log."""

    def __init__(self, stream: TextIO | io.TextIOBase) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(scrub(text))
            self._stream.flush()
        return len(text)

    def fileno(self) -> int:
        return self._stream.fileno()
