"""Every test runs with the shapes in the types checked (jaxtyping, by beartype)."""

from __future__ import annotations

from jaxtyping import install_import_hook

# Before any module of stages is imported; it stays for the whole run.
install_import_hook(["stages"], "beartype.beartype")
