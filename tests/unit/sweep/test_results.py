"""Results of a study, read from its files."""

import json

from hpctrain.sweep.study_dir import StudyDir


def test_a_part_with_one_value_of_a_swept_key_is_compared_by_it(tmp_path):
    """`sweep optimizer.lr=0.1,0.2` and later `sweep optimizer.lr=0.3 model=mlp seed=0,1` are one table."""
    from dataclasses import asdict

    from hpctrain.config.sweep_grammar import Composer
    from hpctrain.sweep import results
    from hpctrain.sweep.space import trial

    study = StudyDir(tmp_path / "s")
    study.create()
    for fixed, overrides in (
        (
            ["experiment=lenet_digits"],
            [("optimizer.lr=0.1", "model=mlp"), ("optimizer.lr=0.2", "model=lenet")],
        ),
        (["experiment=lenet_digits", "optimizer.lr=0.3"], [("seed=0",), ("seed=1",)]),
    ):
        trials = [trial(Composer(fixed), o)[0] for o in overrides]
        study.add_part({"fixed": fixed, "trials": [asdict(t) for t in trials]})
    rows = results.read(study, "accuracy")
    assert [dict(r.params) for r in rows] == [
        {"optimizer.lr": 0.1, "model": "mlp", "seed": 0},
        {"optimizer.lr": 0.2, "model": "lenet", "seed": 0},
        {"optimizer.lr": 0.3, "model": "lenet", "seed": 0},
        {"optimizer.lr": 0.3, "model": "lenet", "seed": 1},
    ]
    assert rows[-1].fixed == ("experiment=lenet_digits", "optimizer.lr=0.3")


def test_a_run_whose_settings_are_gone_or_damaged_is_reported_with_the_others(tmp_path):
    from hpctrain.sweep import results

    study, said = StudyDir(tmp_path / "s"), []
    for name, text in (("a", "seed: 1\nx: 5\n"), ("b", "seed: 2\nx: 5\n"), ("c", None), ("d", "[")):
        (study.path / name).mkdir(parents=True)
        (study.path / name / "state.json").write_text(json.dumps({"phase": "done"}))
        if text:
            (study.path / name / "config.yaml").write_text(text)
    rows = results.read_plain(study, "accuracy", said.append)
    assert [(r.run_id, r.params, r.phase) for r in rows] == [
        ("a", {"seed": 1}, "done"), ("b", {"seed": 2}, "done"),
        ("c", {"seed": None}, "done"), ("d", {"seed": None}, "done"),
    ]  # fmt: skip
    assert ["is missing" in said[0], "is damaged" in said[1], len(said)] == [True, True, 2]
