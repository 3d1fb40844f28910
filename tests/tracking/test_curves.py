"""curves.csv, and the state that a resumed run takes it from."""

from pathlib import Path

import pytest

from stages.tracking.curves import Curves, Timings, read_curves
from stages.tracking.tracker import Tracker


def test_a_row_per_step_and_a_column_per_metric(tmp_path: Path) -> None:
    tracker = Tracker([Curves(tmp_path / "curves.csv")])
    tracker.log({"train/loss": 0.5, "perf/tokens_per_second": 812.0}, step=2)
    tracker.log({"train/loss": 0.75}, step=1)
    tracker.log({"eval/loss": 0.25}, step=2)
    tracker.finish()
    # perf/ depends on the clock, and the same seed must write the same file.
    assert (tmp_path / "curves.csv").read_text() == "step,eval/loss,train/loss\n1,nan,0.75\n2,0.25,0.5\n"
    assert read_curves(tmp_path / "curves.csv") == {
        "eval/loss": [(2, 0.25)],
        "train/loss": [(1, 0.75), (2, 0.5)],
    }


def test_timings_without_room_cost_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("where their folder should be")
    tracker = Tracker([Timings(tmp_path / "file" / "timings.csv")])
    tracker.log({"perf/step_seconds": 1.0}, step=1)
    tracker.flush()
    tracker.finish()
    assert "timings.csv is not written" in capsys.readouterr().err


def test_nothing_logged_is_a_header(tmp_path: Path) -> None:
    Tracker([Curves(tmp_path / "new" / "curves.csv")]).flush()
    assert (tmp_path / "new" / "curves.csv").read_text() == "step\n"


def test_a_resumed_run_has_the_whole_curve(tmp_path: Path) -> None:
    killed = Tracker([Curves(tmp_path / "killed.csv")])
    killed.log({"train/loss": 3.0}, step=1)
    checkpoint = killed.state_dict()
    killed.log({"train/loss": 2.0}, step=2)  # after the checkpoint: lost, and logged again

    resumed = Tracker([Curves(tmp_path / "curves.csv")])
    resumed.load_state_dict(checkpoint)
    resumed.log({"train/loss": 2.0}, step=2)
    resumed.finish()
    assert (tmp_path / "curves.csv").read_text() == "step,train/loss\n1,3.0\n2,2.0\n"
    assert [event["step"] for event in resumed.state_dict()["metrics"]] == [1, 2]


def test_finish_after_the_folder_has_moved_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    tracker = Tracker([Curves(tmp_path / "out" / "curves.csv")])
    tracker.flush()
    (tmp_path / "out").rename(tmp_path / "moved")
    tracker.finish()
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "moved" / "curves.csv").exists()
