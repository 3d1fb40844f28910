"""Whether the prompts bring what the verifier reads: better said here than after sft is trained."""

from __future__ import annotations

from stages.config.errors import UserError
from stages.data.examples import Example

# The rewards themselves are not imported: prepare would run again at every change of theirs.
READS = {"reasoning_gym": ("answer", "task", "metadata"), "numeric": ("answer",), "exact": ("answer",)}


def check_answers(role: str, verifier: str | None, examples: list[Example]) -> None:
    """Raises UserError where a built-in verifier would miss a column; a user's own goes unchecked."""
    if verifier is None:
        return
    for column in READS.get(verifier, ()):
        if any(example.columns.get(column) is None for example in examples):
            own = ", ".join(examples[0].columns) or "none"
            mend = f"map data.{role}.columns.answer" if column == "answer" else "generate the problems"
            raise UserError(
                f"data.verifier '{verifier}' reads the column '{column}', which not every row of data.{role} "
                f"has (columns: {own}); {mend}, or set another verifier, or null for none"
            )
