"""A canary in every group of the settings: refused without being shown, or kept as the reference that it is."""

import os

import pytest

from hpctrain import cli

CANARIES = {
    "aws": "AKIA" + 16 * "Q",
    "github": "ghp_" + 36 * "q",
    "slack": "xoxb-1234567890-canary",
    "url": "https://me:canary@host/x",
    "header": "Authorization: Bearer canary123",
    "key": "-----BEGIN RSA PRIVATE KEY----- canary",
}
PLACES = [
    "cluster.srun_args=['{}']", "cluster.sbatch.x='{}'", "cluster.modules=['{}']", "cluster.environment.X='{}'",
    "cluster.setup=['{}']", "data.path='{}'", "model.weights='{}'", "cluster.account='{}'", "run.root='{}'",
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hpctrain.scheduler.submit.check_here", lambda config: None)
    monkeypatch.setattr("hpctrain.scheduler.submit.submit", lambda *args: "1")
    return tmp_path


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("canary", CANARIES)
def test_a_secret_is_refused_unseen_and_nothing_is_written(here, capsys, place, canary):
    assert cli.main(["submit", "lenet_digits", "cluster=devcluster", place.format(CANARIES[canary])]) == 2
    said = capsys.readouterr()
    assert CANARIES[canary] not in said.out + said.err
    assert place.partition("=")[0] in said.err
    assert not list(here.iterdir())


@pytest.mark.parametrize("place", ["account='{}'", "srun_args=['{}']", "sbatch.x='{}'", "partition='{}'"])
def test_what_a_script_would_hold_of_a_variable_is_looked_at(here, capsys, monkeypatch, place):
    monkeypatch.setenv("MY_CANARY", CANARIES["github"])
    setting = f"cluster.{place.format('${oc.env:MY_CANARY}')}"
    assert cli.main(["submit", "lenet_digits", "cluster=devcluster", setting]) == 2
    said = capsys.readouterr()
    assert CANARIES["github"] not in said.out + said.err
    assert setting.partition("=")[0] in said.err
    assert not list(here.iterdir())


def test_what_a_variable_holds_is_in_no_file_and_reaches_the_job(here, capsys, monkeypatch):
    monkeypatch.setenv("MY_CANARY", "canary-of-the-shell")
    words = ["submit", "lenet_digits", "cluster=devcluster", "cluster.environment.X_TOKEN=${oc.env:MY_CANARY}",
             "data.path=${oc.env:MY_CANARY}"]  # fmt: skip
    assert cli.main([*words, "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert 'export X_TOKEN="${MY_CANARY}"' in script
    assert cli.main(words) == 0
    said = capsys.readouterr()
    written = "".join(path.read_text() for path in here.rglob("*") if path.is_file())
    assert "${oc.env:MY_CANARY}" in written
    for text in (script, said.out, said.err, written, os.environ["HPCTRAIN_COMMAND"]):
        assert "canary-of-the-shell" not in text
