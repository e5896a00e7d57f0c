"""What a rank says on its launcher's stderr is read again from any launcher's output."""

import errno

import pytest

from hpctrain.errors import RunFailed
from hpctrain.storage import last_word
from hpctrain.storage.last_word import LastWord

FULL = LastWord("DISK_FULL", "OSError: [Errno 28] No space left on device: 'x: y'", 3)
WAITED = LastWord("COLLECTIVE_TIMEOUT", "a rank did not answer", 0)


@pytest.mark.parametrize("word", [FULL, WAITED, LastWord("DISK_FULL", "d", None), LastWord("ERROR", "", 12)])
def test_a_line_says_all_of_it(word):
    assert last_word.find(last_word.line(word)) == word


def test_launchers_put_their_own_words_around_it():
    text = f"mpirun noticed\n[1,3]<stderr>:{last_word.line(FULL)}\nhpctrain: start 0 of job 7\n"
    assert last_word.find(text) == FULL


def test_who_only_waited_for_another_is_not_the_first():
    lines = [last_word.line(word) for word in (WAITED, FULL, LastWord("ERROR", "d", 1))]
    assert last_word.find("\n".join(lines)) == FULL
    assert last_word.find(lines[0]) == WAITED


@pytest.mark.parametrize("text", ["", "hpctrain: start 0 of job 7 on n1", "hpctrain: rank 0: OTHER: d"])
def test_other_lines_say_nothing(text):
    assert last_word.find(text) is None


def test_exit_codes():
    codes = {
        reason: last_word.exit_code(reason) for reason in ("DISK_FULL", "STORAGE_ERROR", "ERROR", "None")
    }
    assert codes == {"DISK_FULL": 228, "STORAGE_ERROR": 205, "ERROR": 1, "None": 1}


@pytest.mark.parametrize(
    ("code", "reason"),
    [(228, "DISK_FULL"), (205, "STORAGE_ERROR"), (1, None), (0, None), (137, None), (None, None)],
)
def test_some_reasons_are_known_from_the_exit_code(code, reason):
    assert last_word.reason_of_exit(code) == reason


@pytest.mark.parametrize(
    ("code", "written", "missing"),
    [
        (228, "PREEMPTED", True),
        (228, "DISK_FULL", False),
        (205, None, True),
        (1, "ERROR", False),
        (None, None, False),
    ],
)
def test_what_was_not_written_down_is_known_from_the_exit_code(code, written, missing):
    assert last_word.unwritten(code, written) == missing


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RunFailed("DATA_ERROR", "line 3"), "hpctrain: DATA_ERROR: line 3"),
        (OSError(errno.ENOSPC, "No space", "f"), "hpctrain: DISK_FULL: [Errno 28] No space: 'f'"),
        (OSError(errno.EIO, "I/O", "f"), "hpctrain: STORAGE_ERROR: [Errno 5] I/O: 'f'"),
    ],
)
def test_an_error_with_a_reason_has_a_last_word(error, said):
    assert last_word.line(last_word.of(error)) == said


def test_an_error_without_a_reason_has_none():
    assert last_word.of(FileNotFoundError(errno.ENOENT, "No such file", "f")) is None
