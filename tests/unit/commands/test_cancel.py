"""`hpctrain cancel` of a run that has ended already."""

from hpctrain import cli


def test_a_run_that_has_ended_is_not_cancelled(failed, capsys):
    assert cli.main(["cancel"]) == 0
    assert capsys.readouterr().out == "net-0123456789: has ended already (failed)\n"
    assert not failed.cancel_file.exists()


def test_a_study_without_runs_is_named(failed, capsys):
    """A slip in a study's name is no success: the jobs of the study that is meant live on."""
    assert cli.main(["cancel", "--study", "nonsuch"]) == 2
    assert "run.study=nonsuch: no such study in " in capsys.readouterr().err
    (failed.path.parents[1] / "begun").mkdir()
    assert cli.main(["cancel", "--study", "begun"]) == 2
    assert capsys.readouterr().err == "hpctrain: run.study=begun: has no runs yet\n"
