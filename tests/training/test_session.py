"""What a stage checks of its rows before it trains."""

from __future__ import annotations

import pytest

from stages.config.errors import UserError
from stages.training.session import check_shares


@pytest.mark.parametrize(("rows", "batch_size", "processes"), [(1, 8, 1), (3, 2, 2), (4, 8, 2), (9, 8, 4)])
def test_every_process_gets_as_many_rows(rows: int, batch_size: int, processes: int):
    check_shares(rows, batch_size, processes)


def test_too_few_rows_for_the_processes_say_what_to_do():
    """Without this a process without rows would fail, and one with fewer minibatches would wait for ever."""
    with pytest.raises(UserError, match="1 examples cannot be shared out over 2 processes: start fewer"):
        check_shares(1, 8, 2)
    with pytest.raises(UserError, match="7 examples, fewer than batch_size 8, .* set batch_size to 6"):
        check_shares(7, 8, 2)
