"""`hpctrain cancel` of a run that has ended already."""

from hpctrain import cli


def test_a_run_that_has_ended_is_not_cancelled(failed, capsys):
    assert cli.main(["cancel"]) == 0
    assert capsys.readouterr().out == "net-0123456789: has ended already (failed)\n"
    assert not failed.cancel_file.exists()
