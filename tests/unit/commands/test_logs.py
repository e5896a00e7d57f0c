"""`hpctrain logs` of a run that has ended, from its files."""

from hpctrain import cli


def test_the_log_of_a_rank(failed, capsys):
    assert cli.main(["logs"]) == 0
    assert capsys.readouterr().out == "step 1\nout of memory\n"
    assert cli.main(["logs", "net", "--rank", "1"]) == 0
    assert capsys.readouterr().out == "step 1\n"


def test_followed_to_the_end_it_says_how_the_run_ended(failed, capsys):
    assert cli.main(["logs", "-f"]) == 1
    out, err = capsys.readouterr()
    assert out == "step 1\nout of memory\n"
    assert err.splitlines() == [
        "hpctrain: net-0123456789 failed on rank 0: OUT_OF_MEMORY: rank 0 was killed",
        "  | step 1",
        "  | out of memory",
        f"hpctrain: its log: {failed.rank_log(1, 0)}",
    ]
