"""`hpctrain status` of a run that has failed, from its files."""

import json

from hpctrain import cli


def test_status_explains_a_run_alone(failed, capsys):
    assert cli.main(["status"]) == 0
    out = capsys.readouterr().out
    assert "rank 0 was killed" in out
    assert "  | out of memory" in out
    assert cli.main(["status", "other", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["key"] == "run"
