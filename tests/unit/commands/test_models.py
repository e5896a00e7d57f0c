"""`hpctrain models`: one row per network."""

import json

from hpctrain import cli
from hpctrain.models.settings import SETTINGS


def test_every_network_has_its_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.main(["models", "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == SETTINGS.keys()
    assert rows["resnet50"]["params"] == 25_557_032
    assert cli.main(["models"]) == 0
    assert "25,557,032" in capsys.readouterr().out
    assert cli.main(["models", "resnet50"]) == 2
    assert "word=resnet50: is one too many" in capsys.readouterr().err
