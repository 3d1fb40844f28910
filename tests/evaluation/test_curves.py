"""The curves of three stages in one table, and their charts."""

from pathlib import Path

from stages.evaluation.charts import MOST_POINTS, curve_chart, interval_chart, smooth, thin
from stages.evaluation.curves import by_step, panels, split_panels, stage_curves


def test_stages_are_joined_by_step(tmp_path: Path) -> None:
    for stage, text in {
        "sft": "step,train/loss\n1,2.0\n2,1.0\n",
        "rl": "step,eval/loss\n2,0.5\n",
        "rm": "step\n",
    }.items():
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "curves.csv").write_text(text)
    curves = stage_curves({stage: tmp_path / stage for stage in ("sft", "rm", "rl", "absent")})
    assert curves == {"sft": {"train/loss": [(1, 2.0), (2, 1.0)]}, "rl": {"eval/loss": [(2, 0.5)]}}
    assert by_step(curves) == {1: {"sft/train/loss": 2.0}, 2: {"sft/train/loss": 1.0, "rl/eval/loss": 0.5}}


def test_training_and_held_out_share_a_chart() -> None:
    charts = panels({"train/loss": [(1, 2.0)], "train/grad_norm": [(1, 9.0)], "eval/loss": [(1, 3.0)]})
    assert charts["loss"] == {"training": [(1, 2.0)], "held out": [(1, 3.0)]}
    assert split_panels(charts) == (["loss"], ["grad_norm"])
    assert split_panels(panels({"train/other": [(1, 1.0)]})) == (["other"], [])


def test_long_curves_are_thinned_and_smoothed() -> None:
    points = [(i, float(i)) for i in range(5000)]
    assert len(thin(points)) == MOST_POINTS and thin(points)[-1] == (4999, 4999.0)
    assert smooth([0.0, 3.0, 6.0, 3.0], reach=1) == [1.5, 3.0, 4.0, 4.5]


def test_charts_are_the_same_bytes_each_time() -> None:
    lines = {"training": [(i, 1.0 / (i + 1)) for i in range(50)]}
    assert curve_chart("sft/loss", lines) == curve_chart("sft/loss", lines)
    chart = interval_chart({"base": {"mean": 0.25, "low": 0.2, "high": 0.3}}, share=True)
    assert chart.startswith("<svg viewBox=") and ">25.0<" in chart
