"""Who may take a run over from whom: by the process, by Slurm's word, by the machine's last start."""

import dataclasses
import multiprocessing
import os
import time

import pytest

from hpctrain.errors import RunFailed
from hpctrain.storage import lock
from hpctrain.storage.files import Files


@pytest.fixture
def folder(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path / "checkpoints"


MINE = lock.this_process(1)
ELSEWHERE = dataclasses.replace(MINE, host="far", machine="another", boot="b 1", pid=1)


@pytest.mark.parametrize(
    ("owner", "mine", "said", "ended"),
    [
        (dataclasses.replace(ELSEWHERE, ended=True), {}, None, True),
        (ELSEWHERE, {}, None, None),
        # Slurm: another job, as Slurm says it; the same job started again; the same start.
        (dataclasses.replace(ELSEWHERE, job_id="7"), {"job_id": "8"}, True, True),
        (dataclasses.replace(ELSEWHERE, job_id="7"), {"job_id": "8"}, False, None),
        (dataclasses.replace(ELSEWHERE, job_id="7"), {"job_id": "8"}, None, None),
        (dataclasses.replace(ELSEWHERE, job_id="7"), {"job_id": "7", "restarts": 1}, None, True),
        (dataclasses.replace(ELSEWHERE, job_id="7", restarts=1), {"job_id": "7", "restarts": 1}, None, None),
        # This very machine: the process lives; it is gone; its number is another's now.
        (MINE, {}, None, False),
        (dataclasses.replace(MINE, pid=2**22 + 1), {}, None, True),
        (dataclasses.replace(MINE, started="1"), {}, None, True),
        # It was started again since; another container's processes; another machine of the same name and id.
        (dataclasses.replace(MINE, boot="before 1", since=0.0), {}, None, True),
        (dataclasses.replace(MINE, boot=f"{MINE.boot.split()[0]} pid:[1]"), {}, None, None),
        (dataclasses.replace(MINE, boot="before 1", since=time.time()), {}, None, None),
    ],
)
def test_when_an_owner_is_known_to_have_ended(owner, mine, said, ended):
    found = lock.has_ended(owner, dataclasses.replace(MINE, **mine), lambda job_id: said)
    assert found is ended


def test_the_second_is_told_who_owns_the_run(folder):
    term = lock.acquire(folder, 1)
    with pytest.raises(RunFailed, match=rf"RUN_LOCKED: attempt 1 \(process {os.getpid()} on .*is writing"):
        lock.acquire(folder, 2)
    term.release()
    assert lock.acquire(folder, 2).number == 2


def test_it_waits_for_slurm_to_say_so(folder):
    term = lock.acquire(folder, 1)
    term._write(host="far", machine="another", boot="b 1")
    lock_file = folder / "terms" / "1.json"
    answers = iter([None, False, True])
    owner = dataclasses.replace(term.owner, job_id="7")
    lock_file.write_bytes(lock.seal(dataclasses.asdict(owner)))
    assert lock.acquire(folder, 2, lambda job_id: next(answers), patience_s=30).number == 2


def take(folder, queue):
    try:
        queue.put(lock.acquire(folder, os.getpid()).number)
        time.sleep(3)  # alive while the others try
    except RunFailed:
        queue.put(None)


def test_of_many_at_once_one_gets_it(folder):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=take, args=(folder, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(found, key=str) == [1, None, None, None]


def test_an_answer_lost_by_nfs_is_no_other_owner(folder):
    """link(2) may be sent twice: the second time our own link is in the way."""

    class Twice(Files):
        def link(self, old, new):
            os.link(old, new)
            return super().link(old, new)

    assert lock.acquire(folder, 1, files=Twice()).number == 1


def test_a_damaged_record_stops_with_its_name(folder):
    lock.acquire(folder, 1)
    (folder / "terms" / "1.json").write_bytes(b"{}")
    with pytest.raises(RunFailed, match=r"STORAGE_ERROR.*terms/1\.json is damaged"):
        lock.acquire(folder, 2)
