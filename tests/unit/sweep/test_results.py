"""Results of a study, read from its files."""

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
