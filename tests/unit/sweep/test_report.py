"""What a report says of a study: every run is accounted for, and the best setting shows all its runs."""

import statistics
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.config.swept import Choice, Interval
from hpctrain.report import table
from hpctrain.report.intervals import interval
from hpctrain.sweep import leaderboard
from hpctrain.sweep.report import (
    Report,
    as_json,
    leaderboard_columns,
    left_out,
    look,
    scores_of_best,
    seeds_of_best,
)
from hpctrain.sweep.results import Result
from tests.studies import Made, curve

FAILED = ("failed", "OUT_OF_MEMORY")


def cells(columns):
    return {column.head: list(column.cells) for column in columns}


def test_runs_of_another_length_are_a_column(tmp_path):
    """Two calls of `sweep` with another train.epochs for all: the shorter runs once vanished without a word."""
    made = Made(tmp_path)
    for epochs in (2, 3):
        for lr in (0.1, 0.2):
            for seed in (0, 1):
                config = {"train": {"epochs": epochs, "batch_size": 8}, "run": {"study": f"at {epochs}"}}
                made.run(
                    {"optimizer.lr": lr, "seed": seed},
                    curve(lr + epochs + seed / 100, epochs),
                    config=config,
                )
        study = made.write(fixed=[f"train.epochs={epochs}"])
    found = look(study)
    assert len(found.account.compared) == len(found.rows) == 8
    shown = cells(leaderboard_columns(found, 9))
    assert shown["train.epochs"] == ["3", "3", "2", "2"]
    assert "run.study" not in shown, "where a run is does not tell it from others"
    assert left_out(found) == []


def test_other_settings_of_a_later_call_are_no_seeds(tmp_path):
    """The same rate for another network is another setting."""
    made = Made(tmp_path)
    for model in ({"name": "mlp", "hidden": 8}, {"name": "lenet"}):
        made.run({"optimizer.lr": 0.1}, [0.5 if "hidden" in model else 0.7], config={"model": model})
        study = made.write(fixed=[f"model={model['name']}"])
    found = look(study)
    assert [(s.params, len(s.results)) for s in found.settings] == [
        ({"optimizer.lr": 0.1, "model.name": "lenet"}, 1), ({"optimizer.lr": 0.1, "model.name": "mlp"}, 1),
    ]  # fmt: skip


def test_a_run_that_was_cut_short_is_named(tmp_path):
    made = Made(tmp_path)
    for seed, (epochs, end) in enumerate(
        [(4, ("done", "DONE")), (4, ("done", "DONE")), (2, ("cancelled", "CANCELLED"))]
    ):
        made.run({"lr": 0.1, "seed": seed}, curve(0.8 + seed / 100, epochs), end)
    found = look(made.write())
    assert cells(leaderboard_columns(found, 9))["seeds"] == ["2 of 3"]
    assert left_out(found) == [
        "1 run trained less than others of the same setting, and no mean counts these: lr=0.1 seed=2: 2 epochs."
    ]
    (setting,) = as_json(found)["settings"]
    assert (setting["runs"], setting["left_out"]) == (["r0000", "r0001"], ["r0002"])


def test_failed_open_and_unscored_runs_are_counted(tmp_path):
    made = Made(tmp_path)
    made.run({"lr": 0.1}, [0.5, 0.6])
    made.run({"lr": 0.2}, [0.5], FAILED)
    made.run({"lr": 0.3}, [0.5, float("nan")])
    made.run({"lr": 0.4}, [], ("running", None))
    made.run({"lr": 0.5}, None)
    made.run({"lr": 0.6}, [], ("done", "DONE"))
    made.run({"lr": 0.7}, [0.4], ("running", None))
    found = look(made.write())
    assert left_out(found) == [
        "1 run failed: no mean counts these.",
        "2 runs ended without a finite accuracy: lr=0.3, lr=0.6.",
        "2 runs without a score so far.",
        "1 run did not come to the end so far (1 running); the last score counts.",
        "The settings trained for different numbers of epochs: see the column.",
    ]
    assert as_json(found)["notes"] == left_out(found)


def test_many_names_are_cut_and_counted(tmp_path):
    made = Made(tmp_path)
    for n in range(9):
        made.run({"lr": n}, [float("inf")])
    found = look(made.write())
    assert left_out(found) == ["9 runs ended without a finite accuracy: lr=0, lr=1, lr=2, lr=3 and 5 more."]
    assert found.settings == []


def test_paused_runs_come_after_those_that_trained_longer(tmp_path):
    made = Made(tmp_path, sampler="random", trials=3, pruner="asha")
    for lr, score, epochs in ((0.1, 0.9, 9), (0.2, 0.95, 3), (0.3, 0.97, 1)):
        made.run({"lr": lr}, [score] * epochs, ("done", "DONE") if epochs == 9 else ("paused", "PAUSED"))
    found = look(made.write([Interval("lr", 0.01, 1, log=True, integer=False)]))
    assert cells(leaderboard_columns(found, 9))["lr"] == ["0.1", "0.2", "0.3"]
    assert left_out(found) == ["2 runs were stopped at a rung: settings that trained longer come first."]


def test_the_best_setting_shows_all_its_runs(tmp_path):
    made = Made(tmp_path)
    for lr, scores in ((0.1, (0.91, 0.93, None)), (0.2, (0.5, 0.6, 0.7))):
        for seed, score in enumerate(scores):
            made.run(
                {"lr": lr, "seed": seed}, [score] if score else [], ("done", "DONE") if score else FAILED
            )
    found = look(made.write())
    shown = cells(seeds_of_best(found))
    assert (shown["seed"], shown["accuracy"]) == (["0", "1", "2"], ["0.9100", "0.9300", "–"])
    assert (shown["state"], shown["in the mean"]) == (["done", "done", "failed"], ["yes", "yes", "no"])
    assert shown["run"][0] == "s/r0000", "as `status` calls it"
    assert scores_of_best(found) == "seed 0 0.9100, seed 1 0.9300"
    # Student's t(1) = 12.706 times the standard error 0.01.
    table = cells(leaderboard_columns(found, 9))
    assert (table["accuracy"], table["± 95 %"]) == (["0.92", "0.60"], ["0.13", "0.25"])
    assert "in the mean" not in cells(seeds_of_best(look(twice(tmp_path))))


def twice(root):
    made = Made(root, "twice")
    for seed in (0, 1):
        made.run({"seed": seed}, [0.5])
    return made.write()


def test_scales_are_those_of_the_sweep(tmp_path):
    made = Made(tmp_path)
    made.run({"a": 0.1234567, "b": 0.5, "c": 3}, [0.5])
    space = [Interval("a", 1e-4, 1, log=True, integer=False), Interval("+b", 0, 1, log=False, integer=False)]
    found = look(made.write([*space, Choice("c", ("3",))]))
    assert found.scales == {"a": "log", "b": "linear"}


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_negative_and_equal_scores(tmp_path, metric):
    made = Made(tmp_path, metric=metric)
    for lr in (0.1, 0.2):
        for seed in (0, 1):
            made.run({"lr": lr, "seed": seed}, [-2.5], metric=metric)
    found = look(made.write())
    assert cells(leaderboard_columns(found, 9))[metric] == ["-2.500", "-2.500"]
    assert "± 95 %" not in cells(leaderboard_columns(found, 9)), "equal scores do not show how seeds scatter"


def test_without_seeds_nothing_is_compared(tmp_path):
    made = Made(tmp_path)
    for lr in (0.1, 0.2):
        made.run({"lr": lr}, [lr])
    assert [c.head for c in leaderboard_columns(look(made.write()), 9)] == [
        "#",
        "accuracy",
        "seeds",
        "epochs",
        "lr",
    ]


PHASES = (
    "done",
    "failed",
    "cancelled",
    "running",
    "waiting",
    "paused",
    "submitted",
    "interrupted",
    "requeued",
    "lost",
)
ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3), st.sampled_from(PHASES),
              st.none() | st.floats(-1, 1)), max_size=20,
)  # fmt: skip


@settings(deadline=None)  # the first verdict imports scipy
@given(ROWS, st.booleans())
def test_every_run_is_in_one_list(rows, higher_is_better):
    results = [
        Result(
            str(n), {"lr": lr, "seed": seed}, (), (), phase, None, None, value, float(epochs), [], 1, 1.0, 0.0
        )
        for n, (lr, seed, epochs, phase, value) in enumerate(rows)
    ]
    settings = leaderboard.rank(results, higher_is_better)
    lists = leaderboard.account(results, settings)
    everywhere = [*lists.compared, *lists.shorter, *lists.unscored, *lists.failed, *lists.open]
    assert sorted(r.run_id for r in everywhere) == sorted(r.run_id for r in results)
    of_settings = [r.run_id for s in settings for r in (*s.results, *s.others)]
    assert len(of_settings) == len(set(of_settings))
    scored = {r.params["lr"] for r in results if r.value is not None}
    assert len(of_settings) == sum(r.params["lr"] in scored for r in results)


def test_a_table_of_a_study_fits_a_narrow_terminal(tmp_path):
    made = Made(tmp_path)
    for n in range(3):
        made.run(
            {f"group.a_setting_with_a_long_name_{k}": f"value-{n}-{k}" for k in range(6)}, [0.5 + n / 10]
        )
    found = look(made.write())
    assert max(map(len, table.lines(leaderboard_columns(found, 9), 60))) <= 60


def result(value, lr, seed=0, epochs=10.0, phase="done"):
    return Result(
        run_id=f"{lr}-{seed}", params={"lr": lr, "seed": seed}, overrides=(), fixed=(), phase=phase, reason=None,
        detail=None, value=value, epochs=epochs, curve=[], ranks=1, seconds=0.0, flops=0.0,
    )  # fmt: skip


def seeds(lr, *values, **more):
    return [result(value, lr, seed, **more) for seed, value in enumerate(values)]


def verdict(*rows):
    report = Report(None, "accuracy", True, [r for row in rows for r in row], None, "grid")
    assert report.phases == Counter(r.phase for r in report.rows)
    return report.verdict()


BEST, WORSE = seeds(0.2, 0.90, 0.91, 0.92), seeds(0.1, 0.1, 0.11, 0.12)
MEAN = "Best: accuracy 0.91, the mean of 3 seeds (0.9 to 0.92)."
UNKNOWN = "Not to be compared with it, for want of seeds or of any spread: 1."
ALIKE = "One other setting is not distinguishable from it (≈ best)."
CHOSEN = "It was chosen for its score: new seeds are likely to be less good."


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[]], "No run has a result yet."),
        ([seeds(0.2, 0.9)], "Best: accuracy 0.9, one seed."),
        ([BEST], MEAN),
        (
            [seeds(0.2, 0.9), seeds(0.1, 0.8)],
            "Best: accuracy 0.9, one seed. One seed each: sweep the seed too (seed=0,1,2) to tell settings apart.",
        ),
        # The best has one seed, the other several; and the other way round.
        ([seeds(0.2, 0.95), seeds(0.1, 0.8, 0.81)], f"Best: accuracy 0.95, one seed. {UNKNOWN}"),
        ([BEST, seeds(0.1, 0.8)], f"{MEAN} {UNKNOWN} {CHOSEN}"),
        # Neither has any spread: three equal scores do not show how seeds scatter.
        (
            [seeds(0.2, 0.9, 0.9, 0.9), seeds(0.1, 0.8, 0.8, 0.8)],
            f"Best: accuracy 0.9, the mean of 3 seeds (0.9 to 0.9). {UNKNOWN} {CHOSEN}",
        ),
        ([BEST, WORSE], f"{MEAN} It stands alone. {CHOSEN}"),
        (
            [BEST, WORSE, seeds(0.3, 0.9, 0.91, 0.915), seeds(0.4, 0.2)],
            f"{MEAN} {ALIKE} {UNKNOWN} {CHOSEN}",
        ),
        # Pruned settings are not compared; seeds that trained less than others of their setting do not count.
        (
            [BEST, seeds(0.1, 0.95, 0.96, epochs=3.0, phase="paused")],
            f"{MEAN} Stopped earlier, and not compared: 1.",
        ),
        ([BEST, [result(0.99, 0.2, 7, epochs=3.0)]], MEAN),
        (
            [BEST, [result(0.5, 0.1, 0, epochs=2.0, phase="running")]],
            f"{MEAN} {UNKNOWN} {CHOSEN} Runs that still train count with their newest score: 1.",
        ),
    ],
)
def test_the_verdict(rows, said):
    assert verdict(*rows) == said


def test_seeds_without_spread_have_no_interval():
    (one,) = leaderboard.rank(seeds(0.1, 0.9, 0.9, 0.9), True)
    assert one.half_width is None


def held(settings, count, studies):
    """The shares of studies in which the interval of the first setting named, and of the best, holds the true mean."""
    generator = np.random.default_rng([settings, count])
    shares = [0, 0]
    for _ in range(studies):
        groups = sorted(generator.normal(size=(settings, count)).tolist(), key=statistics.fmean)
        fixed = generator.normal(size=count).tolist()
        for place, group in enumerate((fixed, groups[-1])):
            shares[place] += abs(statistics.fmean(group)) <= interval(group)
    return [share / studies for share in shares]


def test_the_interval_of_a_chosen_setting_is_too_narrow():
    """Which is why the verdict gives the best one no interval, and the page says so of the first rows."""
    fixed, best = held(27, 3, 400)
    assert 0.91 < fixed < 0.99
    assert best < 0.88


@pytest.mark.long
@pytest.mark.parametrize(("settings", "count", "share"), [(9, 3, 0.875), (27, 3, 0.80), (27, 10, 0.61)])
def test_how_often_the_intervals_hold(settings, count, share):
    fixed, best = held(settings, count, 6000)
    assert 0.93 <= fixed <= 0.97
    assert best == pytest.approx(share, abs=0.025)
