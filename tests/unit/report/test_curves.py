"""curves.png: a panel for each score, and for nothing else."""

import json

import pytest
from matplotlib.figure import Figure

from hpctrain.report.curves import draw_curves
from hpctrain.storage.records import TrainRecord, ValidationRecord, to_line, train_records


@pytest.fixture
def panels(monkeypatch):
    """The names of the panels of every figure that is saved."""
    names = []
    save = Figure.savefig

    def savefig(figure, *args, **kwargs):
        names.append([axes.get_ylabel() for axes in figure.axes])
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return names


def test_a_run_stopped_in_its_first_epoch_has_panels_of_scores_alone(tmp_path, panels):
    cut = TrainRecord(3, 0.3, 48, 0.1, {"loss": 2.0, "accuracy": 0.2}, window_steps=3, cut=True)
    old = {
        "kind": "train",
        "step": 3,
        "epoch": 0.3,
        "loss": 2.0,
        "accuracy": 0.2,
        "window_steps": 3,
        "cut": True,
    }
    for line in (to_line(cut, 1, 0.0), old):
        (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        draw_curves(train_records(tmp_path / "metrics.jsonl"), [], tmp_path / "curves.png", "run")
    assert panels == [["loss", "accuracy"]] * 2
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_validation_says_which_scores_there_are(tmp_path, panels):
    train = [TrainRecord(step, step / 4, scores={"loss": 1 / step}) for step in (1, 2)]
    draw_curves(train, [ValidationRecord(4, 1.0, {"loss": 0.3, "bleu": 20.0})], tmp_path / "c.png", "run")
    assert panels == [["loss", "bleu"]]


def test_without_a_score_there_is_no_figure(tmp_path):
    draw_curves([TrainRecord(4)], [], tmp_path / "c.png", "run")  # all its steps were without effect
    draw_curves([], [], tmp_path / "c.png", "run")
    assert list(tmp_path.iterdir()) == []


def test_panels_have_titles_units_and_one_legend(tmp_path, drawn):
    train = [
        TrainRecord(step, step / 4, scores={"loss": loss, "accuracy": 0.5})
        for step, loss in ((1, 2.0), (2, 1e12))
    ]
    odd = [ValidationRecord(4, 1.0, {"loss": float("nan"), "accuracy": 0.6})]
    draw_curves(train, odd, tmp_path / "c.png", "run $a_1")
    (figure,) = drawn
    assert figure.get_suptitle() == "run $a_1"
    assert [ax.get_xlabel() for ax in figure.axes] == ["epoch", "epoch"]
    assert all(ax.yaxis.get_offset_text().get_text() == "" for ax in figure.axes), "no factor beside the axis"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "validation"]
    train_line, validation_line = figure.axes[1].lines
    assert train_line.get_linestyle() != validation_line.get_linestyle()
    assert len(figure.axes[0].lines) == 1, "a value that is not a number is no point"
