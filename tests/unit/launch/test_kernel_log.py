"""Processes that the kernel ended for their memory, from lines of real kernels."""

import subprocess

from hpctrain.launch import kernel_log
from hpctrain.launch.kernel_log import killed_for_memory

# Of a cgroup (here of version 1; version 2 says the same), and of the whole machine.
LOG = """\
[ 1453.488429] oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/x,task_memcg=/x,task=python3,pid=31109,uid=0
[ 1453.488459] Memory cgroup out of memory: Killed process 31109 (python3) total-vm:309540kB, anon-rss:61056kB
[11453.000001] Out of memory: Killed process 77 (python3) total-vm:309540kB, anon-rss:61056kB, file-rss:6660kB
"""


def rank(number, pid, time=1000.0):
    return {"rank": number, "pid": pid, "time": time}


def test_a_rank_is_known_by_its_process():
    assert killed_for_memory(LOG, [rank(0, 5), rank(3, 31109)], 0.0) == 3
    assert killed_for_memory(LOG, [rank(0, 77)], 0.0) == 0
    assert killed_for_memory(LOG, [rank(0, 311090), rank(1, 3110)], 0.0) is None
    assert killed_for_memory("", [rank(0, 77)], 0.0) is None
    assert killed_for_memory(LOG, [{"rank": 0}], 0.0) is None


def test_what_came_before_the_rank_is_about_another_process_of_its_number():
    assert killed_for_memory(LOG, [rank(0, 31109, 2453.0)], 1000.0) == 0
    assert killed_for_memory(LOG, [rank(0, 31109, 2454.0)], 1000.0) is None
    assert killed_for_memory(LOG, [rank(0, 31109, 1e12)]) is None
    assert killed_for_memory(LOG, [rank(0, 31109, 0.0)]) == 0


def test_the_log_of_this_kernel_or_nothing(monkeypatch):
    assert isinstance(kernel_log.read(), str)
    for error in (FileNotFoundError(), subprocess.TimeoutExpired("dmesg", 1)):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(subprocess, "run", fail)
        assert kernel_log.read() == ""
