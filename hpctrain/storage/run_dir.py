"""The run directory: every file name below runs/<study>/<run_id>/, and who writes it.

    config.yaml          the resolved configuration                         whoever makes the run
    identity.json        settings that count, digests of files              whoever makes the run, and rank 0
    provenance.json      commit, versions, command line, hardware           rank 0, each attempt
    state.json           phase, attempt, heartbeat, exit reason             rank 0, and the launcher around it
    submission.json      token, job ids, what was asked for                 submit, or the job of a sweep
    start/terms/         who may start the run (launch/start.py)            submit, or the launcher of its ranks
    cancel               exists if the run was asked to stop                cancel
    pause.json           the epoch at which to stop in good order           the job of a sweep
    metrics.jsonl        one line per record (storage/records.py)           rank 0
    curves.png           loss and accuracy                                  rank 0, at the end
    profile.json         a step taken apart (train.profile)                 rank 0, at the end
    vocabulary.json      a language model's tokens                          rank 0
    classes.json         the names of the classes of a set of pictures      rank 0
    attempts/<n>/        rank_<r>.log, rank_<r>.json (host, pid), saved.json (a step), job.sbatch
    checkpoints/         checkpoints/saver.py
    submitit/            submitit's own files

Files are replaced atomically; folders are 0700. Standard library and PyYAML only: login-node commands
read runs through this file without importing torch.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from typing_extensions import TypedDict

from hpctrain.errors import RunFailed
from hpctrain.storage import attempts, profile, rebuild
from hpctrain.storage.attempts import Failure, RankFile
from hpctrain.storage.config_file import read_config, write_config
from hpctrain.storage.folders import make_private, refuse_others
from hpctrain.storage.json_files import load, replace_text
from hpctrain.storage.profile import Profile
from hpctrain.storage.records import summary_records
from hpctrain.storage.run_state import Reason, RunState, StateFile, SubmissionFile

MARKS = ("config.yaml", "state.json", "submission.json")  # a folder with one of them is a run's


class _Pause(TypedDict):
    epochs: Annotated[int, Ge(1)]


class RunDir:
    """Paths and small files of one run. Making it does no I/O."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = StateFile(f"{path}/state.json", rebuild=self._rebuilt_state)

    def held_by(self, stands: Callable[[], bool]) -> RunDir:
        """Returns this directory for the process that has the right to write its state as long as `stands()`."""
        held = RunDir(self.path)
        held.state = held.state.held_by(stands)
        return held

    @property
    def run_id(self) -> str:
        """The name of the folder."""
        return self.path.name

    @property
    def study(self) -> str:
        """The study that the run belongs to: the name of the folder above."""
        return self.path.parent.name

    @property
    def begun_s(self) -> float:
        """When the run was made, by the file system's clock; of its folder's last entry if config.yaml is gone."""
        try:
            return self.config_file.lstat().st_mtime
        except FileNotFoundError:
            return self.path.stat().st_mtime

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def identity_file(self) -> Path:
        """The settings and digests that make the run's id (data/identify.py)."""
        return self.path / "identity.json"

    @property
    def state_file(self) -> Path:
        """Phase, reason and progress (storage/run_state.py)."""
        return self.state.path

    @property
    def submission_file(self) -> Path:
        """The jobs of the run (storage/run_state.py)."""
        return self.path / "submission.json"

    @property
    def provenance_file(self) -> Path:
        """Commit, versions, command line and hardware."""
        return self.path / "provenance.json"

    @property
    def metrics_file(self) -> Path:
        """One record per line (storage/records.py)."""
        return self.path / "metrics.jsonl"

    @property
    def curves_file(self) -> Path:
        """The plot of loss and scores."""
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def start_folder(self) -> Path:
        """The folder of the terms of processes that start the run (launch/start.py)."""
        return self.path / "start"

    @property
    def submitit(self) -> Path:
        """The folder of submitit's own files."""
        return self.path / "submitit"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    def attempt(self, number: int) -> Path:
        """Returns the folder of an attempt."""
        return self.path / "attempts" / str(number)

    def rank_log(self, attempt: int, rank: int) -> Path:
        """Returns the log file of a rank."""
        return self.attempt(attempt) / f"rank_{rank}.log"

    def timeline_file(self, attempt: int) -> Path:
        """Returns Horovod's own record of its exchanges (comm.timeline), for chrome://tracing and our summary."""
        return self.attempt(attempt) / "timeline.json"

    def rank_file(self, attempt: int, rank: int) -> Path:
        """Returns the file in which a rank notes its host, process and outcome."""
        return self.attempt(attempt) / f"rank_{rank}.json"

    def attempts(self) -> list[int]:
        """Returns the numbers of all attempts, the oldest first."""
        return attempts.numbers(self.path)

    @property
    def cancel_file(self) -> Path:
        """A file that exists from a request to cancel until the run's next start."""
        return self.path / "cancel"

    @property
    def pause_file(self) -> Path:
        """The epoch at which to stop in good order."""
        return self.path / "pause.json"

    def newest_ranks(self) -> list[RankFile]:
        """Returns what each rank of the newest attempt wrote about itself; [] if there was no attempt."""
        numbers = self.attempts()
        return self.rank_files(numbers[-1]) if numbers else []

    def pause_at(self, epochs: int | None) -> None:
        """Makes the run stop after `epochs` from its next start on; None: it runs to its end."""
        if epochs is None:
            self.pause_file.unlink(missing_ok=True)
        else:
            replace_text(self.pause_file, json.dumps({"epochs": epochs}))

    def read_pause(self) -> int | None:
        """Returns the epoch at which to stop; None if the run goes on to its end. Raises Damaged."""
        pause = load(self.pause_file, _Pause)
        return pause["epochs"] if pause else None

    def attempt_of(self, token: str) -> int | None:
        """Returns the attempt that `token` names (see claim_attempt); None if none of its processes is up yet."""
        numbers = reversed(self.attempts())
        return next((number for number in numbers if attempts.token(self.path, number) == token), None)

    def claim_failure(self, attempt: int, failure: Mapping[str, Any]) -> bool:
        """Publishes why this attempt failed, unless another rank was first; returns whether this rank was first."""
        path = self.attempt(attempt) / "failure.json"
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".failure.")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(failure, file)
            os.link(name, path)  # fails if the file exists: the first one stays
        except FileExistsError:
            return False
        finally:
            Path(name).unlink()
        return True

    def failure(self, attempt: int) -> Failure | None:
        """Returns why an attempt failed; None if no rank has said so."""
        return attempts.failure(self.path, attempt)

    def rank_files(self, attempt: int, own: bool = False) -> list[RankFile]:
        """Returns what each rank of an attempt wrote about itself, in order of rank; `own` as in attempts.ranks."""
        return attempts.ranks(self.path, attempt, own)

    def create(self, config: Mapping[str, Any]) -> None:
        """Makes the folder, and writes config.yaml unless it exists. Raises UserError if the folder cannot be made."""
        make_private(self.path)
        if not self.config_file.exists():
            write_config(self.config_file, config)

    @property
    def vocabulary_file(self) -> Path:
        """The tokens of a language model."""
        return self.path / "vocabulary.json"

    def keep(self, files: Mapping[str, str]) -> None:
        """Keeps small texts that belong to the trained model. Raises RunFailed if the run has different ones."""
        for name, text in files.items():
            path = self.path / name
            if not path.exists():
                replace_text(path, text)
            elif path.read_text() != text:
                raise RunFailed(
                    Reason.DATA_ERROR, f"{name} is not what it was when the run began: the data have changed"
                )

    def read_config(self) -> dict[str, Any]:
        """Returns config.yaml as plain containers, to show it. Raises UserError if it is missing or damaged."""
        return read_config(self.config_file)

    def own_config(self) -> dict[str, Any]:
        """Returns what `read_config` does, to act on it. Raises UserError if others could have written it."""
        return read_config(self.config_file, own=True)

    def refuse_others(self) -> None:
        """Raises UserError if users other than this one and root can write to a folder between run.root and this one.

        A folder that does not exist yet is accepted.
        """
        refuse_others(self.path.parent.parent, self.path)

    def network_config(self) -> dict[str, Any]:
        """Returns what `read_config` does, to build the network. Raises UserError if it names code and is not ours."""
        values = self.read_config()
        model = values.get("model")
        return self.own_config() if isinstance(model, Mapping) and model.get("target") else values

    def read_state(self) -> RunState:
        """Returns how the run stands now; phase NEW if it was never started."""
        return self.state.read()

    def saved_step(self) -> int:
        """Returns the newest step that was saved, according to the run's files without the checkpoints."""
        state = self.read_state()
        told = [
            state.checkpoint,
            *(state.starts or ()),
            *(end.step for end in summary_records(self.metrics_file)),
            *(attempts.saved(self.path, number) for number in self.attempts()),
        ]
        return max((step for step in told if isinstance(step, int)), default=0)

    def note_saved(self, attempt: int, step: int) -> None:
        """Notes beside an attempt's logs that a step was saved: this file may survive a purge of the checkpoints."""
        replace_text(self.attempt(attempt) / "saved.json", json.dumps(step))

    def write_profile(self, values: Profile) -> None:
        """Writes profile.json: how long each part of a step takes."""
        replace_text(self.path / "profile.json", json.dumps(values))

    def read_profile(self) -> Profile | None:
        """Returns profile.json; None if no profile was asked for or the run is not done. Raises Damaged."""
        return profile.read(self.path / "profile.json")

    @property
    def submission(self) -> SubmissionFile:
        """submission.json: the jobs of the run."""
        return SubmissionFile(self.submission_file, functools.partial(rebuild.submission, self.path))

    def _rebuilt_state(self, why: str | None) -> RunState:
        return rebuild.state(self.path, self.submission.read(), why)

    def discard(self) -> None:
        """Removes a run that never began, and its study and root folders if they are empty then."""
        shutil.rmtree(self.path)
        for folder in (self.path.parent, self.path.parent.parent):
            with contextlib.suppress(OSError):  # not empty: others' runs
                folder.rmdir()


def claim_attempt(run: RunDir, token: str) -> int:
    """Returns the number of the attempt that `token` names; its first process makes the folder. Raises OSError.

    Ranks of one attempt start in any order and at the same time, on several nodes: the folder is published with its
    token by one rename, which fails if another rank was faster. Numbers grow even if the folders were removed.
    """
    folder = run.path / "attempts"
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        # This comes before the look for the token, which sees a folder that another process makes in between.
        number = 1 + max([*run.attempts(), run.read_state().attempt or 0])
        if (known := run.attempt_of(token)) is not None:
            return known
        fresh = Path(tempfile.mkdtemp(dir=folder, prefix=".new."))
        try:
            (fresh / "token").write_text(token)
            fresh.rename(run.attempt(number))
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process has just made it
                raise
        else:
            return number
