"""Who may take a run over from whom: by the process, by Slurm's word, by the machine's last start."""

import dataclasses
import math
import multiprocessing
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from hpctrain.errors import RunFailed
from hpctrain.storage import lock
from hpctrain.storage.files import Files


@pytest.fixture
def folder(tmp_path):
    tmp_path.chmod(0o700)
    return tmp_path / "checkpoints"


MACHINE_ID = Path("/etc/machine-id")
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


def test_it_waits_for_slurm_to_say_so(folder, monkeypatch):
    slept = []
    monkeypatch.setattr(lock.time, "sleep", slept.append)
    term = lock.acquire(folder, 1)
    term._write(host="far", machine="another", boot="b 1")
    lock_file = folder / "terms" / "1.json"
    answers = iter([None, False, True])
    owner = dataclasses.replace(term.owner, job_id="7")
    lock_file.write_bytes(lock.seal(dataclasses.asdict(owner)))
    assert lock.acquire(folder, 2, lambda job_id: next(answers), patience_s=30).number == 2
    assert slept == [1, 1]


def test_it_waits_no_longer_than_its_patience(folder, monkeypatch):
    lock.acquire(folder, 1)
    now = [100.0]
    monkeypatch.setattr(lock.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(lock.time, "sleep", lambda s: now.append(now.pop() + s))
    with pytest.raises(RunFailed, match="is writing"):
        lock.acquire(folder, 2, patience_s=5)
    assert now == [105.0]


def test_a_term_is_a_record_of_its_owner(folder):
    term = lock.acquire(folder, 7)
    assert (
        term.owner == lock.last_owner(folder) == dataclasses.replace(MINE, attempt=7, since=term.owner.since)
    )
    term.begin(40)
    assert lock.last_owner(folder) == dataclasses.replace(term.owner, step=40)
    assert term.stands()
    term.release()
    assert lock.last_owner(folder).ended
    later = lock.acquire(folder, 8)
    assert not term.stands()
    assert lock.owners(folder) == {1: term.owner, 2: later.owner}
    assert [path.name for path in sorted((folder / "terms").iterdir())] == ["1.json", "2.json"]


def test_an_owner_whose_folder_was_moved_is_not_superseded(folder):
    """Nobody has taken the run over: to say so would send its user to look for another job."""
    term = lock.acquire(folder, 1)
    folder.rename(folder.with_name("elsewhere"))
    for ask in (term.stands, term.confirm):
        with pytest.raises(RunFailed, match=rf"^STORAGE_ERROR: {folder} was moved or removed"):
            ask()
    folder.with_name("elsewhere").rename(folder)
    assert term.stands()


def test_a_later_term_ends_the_right_to_write(folder):
    old = lock.acquire(folder, 1)
    old.confirm()
    old.release()
    new = lock.acquire(folder, 2)
    with pytest.raises(RunFailed, match=rf"^RUN_LOCKED: attempt 2 on {MINE.host} has taken this run over$"):
        old.confirm()
    new.begin(3)
    before = lock.owners(folder)
    with old:  # and its end changes nothing
        pass
    assert lock.owners(folder) == before


def test_the_end_of_a_term_lets_the_next_one_in(folder):
    with lock.acquire(folder, 1) as term:
        assert not term.owner.ended
    assert lock.last_owner(folder).ended


def test_a_release_that_fails_hides_no_other_error(folder):
    class Full(Files):
        def rename(self, old, new):
            raise OSError(28, "no space")

    term = lock.acquire(folder, 1)
    term.files = Full()
    with pytest.raises(KeyError), term:
        raise KeyError("the work's own")
    assert not lock.last_owner(folder).ended


def test_a_person_may_declare_an_owner_ended(folder):
    assert lock.unlock(folder) is None
    assert lock.last_owner(folder) is None
    term = lock.acquire(folder, 1)
    term._write(host="far", boot="b 1")
    with pytest.raises(RunFailed, match="may still be writing"):
        lock.acquire(folder, 2)
    assert lock.unlock(folder) == dataclasses.replace(term.owner, ended=True)
    assert lock.acquire(folder, 2).number == 2


def test_who_may_still_write_is_named_with_what_to_do(folder):
    far = dataclasses.replace(ELSEWHERE, attempt=3, job_id="77")
    files = Files()
    lock.acquire(folder, 1).release()
    lock.replace_file(folder / "terms" / "1.json", lock.seal(dataclasses.asdict(far)), files)
    with pytest.raises(RunFailed, match=r"attempt 3 \(process 1 on far, Slurm job 77\) may still") as caught:
        lock.acquire(folder, 2)
    assert caught.value.reason == "RUN_LOCKED"
    assert caught.value.detail.endswith(f"hpctrain checkpoints {folder.parent.name} --unlock")
    with pytest.raises(RunFailed, match=r"may still be sweeping; .*: hpctrain sweep --unlock s$"):
        lock.acquire(folder, 2, doing="sweeping", unlock="hpctrain sweep --unlock s")


def test_other_files_among_the_terms_are_no_terms(folder):
    lock.acquire(folder, 1).release()
    (folder / "terms" / "x.json").write_text("")
    (folder / "terms" / "9").write_text("")
    assert lock.acquire(folder, 2).number == 2
    assert list(lock.owners(folder)) == [1, 2]


def test_a_process_is_known_by_its_machine_and_slurm_job(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(lock.time, "time", lambda: 1000.0)
    found = lock.this_process(4)
    assert (found.attempt, found.host, found.pid) == (4, socket.gethostname(), os.getpid())
    assert (found.job_id, found.restarts, found.step, found.ended) == (None, 0, None, False)
    assert found.since == 1000.0
    assert found.machine == (MACHINE_ID.read_text().strip() if MACHINE_ID.exists() else "")
    kernel, space = found.boot.split()
    assert kernel == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert space == str(Path("/proc/self/ns/pid").readlink())
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    found = lock.this_process(4)
    assert (found.job_id, found.restarts) == ("12", 3)


def test_a_process_that_has_ended_has_no_start():
    process = subprocess.Popen(["sleep", "60"])
    started = lock._start_time(process.pid)
    # Field 22 of proc(5)'s stat; nothing before it holds a blank here.
    assert started == Path(f"/proc/{process.pid}/stat").read_text().split()[21]
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
    assert lock._start_time(process.pid) is None
    process.wait()
    assert lock._start_time(process.pid) is None


def test_this_machine_started_before_now():
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    assert lock._boot_time_s() == pytest.approx(time.time() - uptime_s, abs=60)


def test_a_start_of_the_machine_that_is_not_said_ends_nobody(monkeypatch):
    monkeypatch.setattr(lock, "_text", lambda path: "")
    assert lock._boot_time_s() == -math.inf


def take(folder, queue, all_tried):
    try:
        queue.put(lock.acquire(folder, os.getpid()).number)
        all_tried.wait(60)  # alive while the others try
    except RunFailed:
        queue.put(None)


def test_of_many_at_once_one_gets_it(folder):
    context = multiprocessing.get_context("spawn")
    queue, all_tried = context.Queue(), context.Event()
    processes = [context.Process(target=take, args=(folder, queue, all_tried)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [queue.get(timeout=60) for _ in processes]
    all_tried.set()
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
