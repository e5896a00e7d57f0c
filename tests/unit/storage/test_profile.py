"""profile.json, whole and damaged."""

import json

import pytest

from hpctrain.errors import Damaged
from tests.profiles import profile


@pytest.mark.parametrize("ranks", [1, 2])
def test_there_and_back(run, ranks):
    assert run.read_profile() is None
    run.write_profile(profile(ranks))
    assert run.read_profile() == profile(ranks)


@pytest.mark.parametrize("key", profile().keys())
def test_a_missing_key_is_named(run, key):
    values = profile(2)
    del values[key]
    run.write_profile(values)
    with pytest.raises(Damaged, match=f"profile.json is damaged \\({key}: field required"):
        run.read_profile()


PART = profile(2)["computing"]["64"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"computing": {"64": {"data_s": 0.1}}}, "computing.64.forward_s: field required"),
        ({"computing": {}}, "computing: batch size 64 is missing"),
        ({"computing": {"64": PART, "half": PART}}, "computing: its keys must be batch sizes"),
        ({"computing": {"64": PART, "0": PART}}, "computing: its keys must be batch sizes"),
        ({"computing": {"64": PART | {"step_s": [[1.0], [1.0, 2.0]]}}}, "computing.64.step_s: ranks have different"),
        ({"computing": {"64": PART | {"step_s": [[]]}}}, "computing.64.step_s.0: list should have at least 1"),
        ({"exchange_s": []}, "exchange_s and sums: too few values for 2 ranks"),
        ({"sums": profile(2)["sums"][:1]}, "exchange_s and sums: too few values for 2 ranks"),
        ({"optimizer_s": -1.0}, "optimizer_s: input should be greater"),
        ({"cores": 0}, "cores: input should be greater"),
        ({"gradients": [{"name": "w", "bytes": 1}]}, "gradients.0.ready_s: field required"),
        ({"ceilings": {"device": "a CPU"}}, "ceilings.threads: field required"),
    ],
)  # fmt: skip
def test_what_its_readers_could_not_use_is_named(run, changes, why):
    (run.path / "profile.json").write_text(json.dumps(profile(2, **changes)))
    with pytest.raises(Damaged) as said:
        run.read_profile()
    assert why in str(said.value)
