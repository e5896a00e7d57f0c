"""The run directory: every file name below runs/<study>/<run_id>/, and who writes it.

    config.yaml          the resolved configuration                         whoever makes the run
    identity.json        settings that count, digests of files              whoever makes the run, and rank 0
    provenance.json      commit, versions, command line, hardware           rank 0, each attempt
    state.json           phase, attempt, heartbeat, exit reason             rank 0, and the launcher around it
    submission.json      token, job ids, what was asked for                 submit, or the job of a sweep
    pause.json           the epoch at which to stop in good order           the job of a sweep
    metrics.jsonl        one line per record (storage/records.py)           rank 0
    curves.png           loss and accuracy                                  rank 0, at the end
    profile.json         a step taken apart (train.profile)                 rank 0, at the end
    vocabulary.json      a language model's tokens                          rank 0
    classes.json         what the classes of a set of pictures are called   rank 0
    attempts/<n>/        rank_<r>.log, rank_<r>.json (host, pid), job.sbatch
    checkpoints/         checkpoints/saver.py
    submitit/            submitit's own files

Files are replaced atomically; folders are 0700. Standard library and PyYAML only: login-node commands
read runs through this file without importing torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpctrain.errors import RunFailed, UserError

# The closed set of phases. The last four are final.
PHASES = ("submitted", "starting", "running", "requeued", "done", "failed", "cancelled", "interrupted")
FINAL = frozenset(PHASES[-4:])

# The closed set of reasons for which a run ends or an attempt stops.
REASONS = {
    "DONE": "the run reached its last step",
    "CANCELLED": "cancelled by the user",
    "INTERRUPTED": "stopped by Ctrl-C or a signal; a checkpoint was saved",
    "PREEMPTED": "the scheduler took the nodes; a checkpoint was saved",
    "TERMINATED": "ended by SIGTERM (preemption or scancel); a checkpoint was saved",
    "TIME_LIMIT": "the job's time limit came; a checkpoint was saved",
    "PAUSED": "stopped at a rung of its sweep; a checkpoint was saved",
    "OUT_OF_MEMORY": "a rank ran out of memory",
    "NAN_PERSISTENT": "loss or gradient was not finite",
    "DATA_ERROR": "the data could not be read",
    "IMPORT_ERROR": "a package could not be imported",
    "COLLECTIVE_TIMEOUT": "a rank did not answer the others in time",
    "NODE_FAILURE": "a node was lost",
    "RANK_KILLED": "a rank was killed by a signal",
    "DISK_FULL": "no space left for the run directory",
    "STORAGE_ERROR": "the run directory could not be written",
    "NO_VALID_CHECKPOINT": "checkpoints exist but none verifies",
    "CONFIG_CHANGED": "the settings that make the science are not the checkpoint's",
    "RUN_LOCKED": "another process owns the run",
    "NO_PROGRESS": "three attempts in a row made no step",
    "SUBMIT_FAILED": "the scheduler refused the job",
    "LOST": "the process ended without a word",
    "ERROR": "an error in the program; see the rank's log",
}


class RunDir:
    """Paths and small files of one run. Cheap to make; touches nothing until asked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def study(self) -> str:
        return self.path.parent.name

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def identity_file(self) -> Path:
        """What makes the run the run that it is (data/identify.py)."""
        return self.path / "identity.json"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def submission_file(self) -> Path:
        return self.path / "submission.json"

    @property
    def provenance_file(self) -> Path:
        return self.path / "provenance.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def curves_file(self) -> Path:
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def submitit(self) -> Path:
        return self.path / "submitit"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def attempt(self, number: int) -> Path:
        return self.path / "attempts" / str(number)

    def rank_log(self, attempt: int, rank: int) -> Path:
        return self.attempt(attempt) / f"rank_{rank}.log"

    def timeline_file(self, attempt: int) -> Path:
        """Horovod's own record of its exchanges (comm.timeline), for chrome://tracing and our summary."""
        return self.attempt(attempt) / "timeline.json"

    def rank_file(self, attempt: int, rank: int) -> Path:
        return self.attempt(attempt) / f"rank_{rank}.json"

    def attempts(self) -> list[int]:
        folder = self.path / "attempts"
        return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []

    @property
    def cancel_file(self) -> Path:
        """There while a cancel was asked for and the run has not been started again since."""
        return self.path / "cancel"

    @property
    def pause_file(self) -> Path:
        return self.path / "pause.json"

    def pause_at(self, epochs: int | None) -> None:
        """From its next start on the run stops after so many epochs; None: at its end."""
        if epochs is None:
            self.pause_file.unlink(missing_ok=True)
        else:
            replace_text(self.pause_file, json.dumps({"epochs": epochs}))

    def read_pause(self) -> int | None:
        return (read_json(self.pause_file) or {}).get("epochs")

    def claim_failure(self, attempt: int, failure: Mapping[str, Any]) -> bool:
        """Publish why this attempt failed, unless another rank was first. True where we were."""
        path = self.attempt(attempt) / "failure.json"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".failure.")
        with os.fdopen(handle, "w") as file:
            json.dump(failure, file)
        try:
            os.link(name, path)  # fails where the file is there: the first one stays
        except FileExistsError:
            return False
        finally:
            Path(name).unlink()
        return True

    def failure(self, attempt: int) -> dict[str, Any] | None:
        return read_json(self.attempt(attempt) / "failure.json")

    def rank_files(self, attempt: int) -> list[dict[str, Any]]:
        """What each rank of an attempt said of itself, in order of rank."""
        found = [read_json(path) for path in self.attempt(attempt).glob("rank_*.json")]
        return sorted((f for f in found if f), key=lambda f: int(f["rank"]))

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the folder and write config.yaml; an existing one is left as it is."""
        make_private(self.path)
        if not self.config_file.exists():
            import yaml

            text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            replace_text(self.config_file, text)

    @property
    def vocabulary_file(self) -> Path:
        return self.path / "vocabulary.json"

    def keep(self, files: Mapping[str, str]) -> None:
        """Small texts that belong to the trained model. Raises RunFailed where the run has other ones."""
        for name, text in files.items():
            path = self.path / name
            if not path.exists():
                replace_text(path, text)
            elif path.read_text() != text:
                raise RunFailed(
                    "DATA_ERROR", f"{name} is not what it was when the run began: the data have changed"
                )

    def read_config(self) -> dict[str, Any]:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        values: dict[str, Any] = yaml.load(self.config_file.read_text(), Loader=loader)
        return values

    def read_state(self) -> dict[str, Any]:
        """state.json, or {} where there is none yet."""
        return read_json(self.state_file) or {}

    def write_state(self, **changes: Any) -> dict[str, Any]:
        """Merge `changes` into state.json. One writer at a time: rank 0, or the launcher while none runs."""
        state = self.read_state() | changes | {"heartbeat": time.time()}
        replace_text(self.state_file, json.dumps(state))
        return state

    def write_profile(self, values: Mapping[str, Any]) -> None:
        replace_text(self.path / "profile.json", json.dumps(values))

    def read_profile(self) -> dict[str, Any] | None:
        """A step taken apart (training/profile.py), where the run was asked for it and is done."""
        return read_json(self.path / "profile.json")

    def read_submission(self) -> dict[str, Any]:
        """submission.json, or {} where the run was never a job."""
        return read_json(self.submission_file) or {}

    def discard(self) -> None:
        """Remove a run that never began, and the folders that were made for it alone."""
        shutil.rmtree(self.path)
        for folder in (self.path.parent, self.path.parent.parent):
            with contextlib.suppress(OSError):  # not empty: others' runs
                folder.rmdir()


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old text or the new, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where the file is missing or is not one."""
    try:
        with path.open("rb", buffering=0) as file:  # quicker than text: status reads thousands
            value = json.loads(file.readall())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def make_private(path: Path) -> None:
    """Make a folder and its parents; the folder itself 0700 under any umask. Raises UserError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
        if path.stat().st_uid == os.getuid():
            path.chmod(0o700)
        with tempfile.TemporaryFile(dir=path):
            pass  # a read-only file system says so only here
    except OSError as error:
        allowed = f"must be a folder that you can write to ({error.strerror})"
        raise UserError("run.root", path, allowed) from None


def claim_attempt(run: RunDir, token: str) -> int:
    """The number of the attempt that `token` names; the first process of it to come makes its folder.

    Ranks of one attempt come in any order and at once, on several nodes: a folder is published with its
    token by one rename, which fails where another was faster.
    """
    folder = run.path / "attempts"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        numbers = run.attempts()
        for number in reversed(numbers):
            if (run.attempt(number) / "token").read_text() == token:
                return number
        fresh = Path(tempfile.mkdtemp(dir=folder, prefix=".new."))
        (fresh / "token").write_text(token)
        number = numbers[-1] + 1 if numbers else 1
        try:
            fresh.rename(run.attempt(number))
        except OSError:  # another process has just made it
            shutil.rmtree(fresh)
            continue
        return number


def locate(root: str, study: str, run_id: str) -> RunDir:
    return RunDir(Path(root).resolve() / study / run_id)


def runs(root: Path, study: str | None = None) -> Iterator[RunDir]:
    """All runs below `root`, in order of study and run id."""
    for folder in sorted(Path(root).glob(f"{study or '*'}/")):
        try:
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
        except OSError:
            continue
        for name in names:
            if os.path.exists(f"{folder}/{name}/config.yaml"):  # noqa: PTH110  (of thousands, each counts)
                yield RunDir(folder / name)


def find(root: str, text: str | None, study: str | None = None) -> RunDir:
    """The run that `text` names: a path, a run id, the start or a part of one, a job id; None: the newest."""
    if text and (Path(text) / "config.yaml").is_file():
        return RunDir(Path(text).resolve())
    known = list(runs(Path(root).resolve(), study))
    if not known:
        raise UserError("run.root", root, "has no runs yet; start one with hpctrain train or submit")
    if text is None:
        return max(known, key=lambda run: run.config_file.stat().st_mtime)
    for fits in (str.__eq__, str.startswith, str.__contains__):
        found = [run for run in known if fits(run.run_id, text)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{r.study}/{r.run_id}" for r in found[:4])
            raise UserError("run", text, f"fits {len(found)} runs: {names}")
    jobs = [r for r in known if text in (read_json(r.submission_file) or {}).get("job_ids", [])]
    if jobs:
        return jobs[0]
    from hpctrain.errors import nearest

    names_all = [run.run_id for run in known]
    raise UserError("run", text, f"no such run in {root}", nearest(text, names_all))


_SECRET = re.compile(
    r"(?i)([\w.]*(?:token|secret|passw\w*|api_?key|credentials?)\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|\S+)"
)


def without_secrets(text: str) -> str:
    """`text` with the value of NAME_TOKEN=..., password: ... and the like replaced by ***."""
    return _SECRET.sub(r"\1***", text)


def refuse_secrets(environment: Mapping[str, str], setup: tuple[str, ...]) -> None:
    """What a configuration says is written to disk and into job scripts: no place for a secret."""
    for where, text in [(f"environment.{k}", f"{k}={v}") for k, v in environment.items()] + [
        ("setup", line) for line in setup
    ]:
        if _SECRET.search(text):
            raise UserError(
                f"cluster.{where}", "***", "looks like a secret and would be written to the run directory; "
                "export it in your shell instead, jobs inherit it"
            )  # fmt: skip


def fail(reason: str, detail: str) -> RunFailed:
    """A RunFailed whose reason is one of REASONS."""
    assert reason in REASONS, reason
    return RunFailed(reason, detail)
