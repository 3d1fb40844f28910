"""The nearest valid spelling of a name that somebody got wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say after an unknown name: `; did you mean 'beta'?`, or the known names where none is near; nothing where
    there is none."""
    known = sorted(known)
    if not known:
        return ""
    lowered = {option.lower(): option for option in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{lowered[close[0]]}'?"
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"; known are {shown}"
