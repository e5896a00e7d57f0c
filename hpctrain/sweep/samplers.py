"""Optuna's samplers, which any number of jobs ask and tell at once over a journal file on shared storage.

The only file that imports Optuna (the extra `sweep`). The study's own files (suggested/, ended/) hold what was
tried; the journal is the sampler's memory, which is updated from them. With asha the sampler is told the result of
a run's first rung, because all runs have trained that much.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import sys
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain import job_environment
from hpctrain.config.sweep_grammar import Composer
from hpctrain.config.swept import Interval, Swept
from hpctrain.errors import RunFailed, UserError
from hpctrain.storage.run_state import storage_failure
from hpctrain.sweep.settings import SweepConfig
from hpctrain.sweep.space import trial
from hpctrain.sweep.study_dir import StudyDir, Trial

JOURNAL_GRACE_S = 10  # an older lock on the journal belongs to a dead process
TRIES = 20  # the job gives up after this many suggestions in a row that are not a new run


def optuna() -> Any:
    """Returns the module optuna, with its log messages off.

    Raises UserError if it is missing or too old (Hydra's Optuna sweeper needs an old one).
    """
    try:
        import optuna
    except ImportError:
        raise UserError("sweep.sampler", "", "needs Optuna: pip install 'hpctrain[sweep]'") from None
    if int(optuna.__version__.split(".")[0]) < 4:
        what = (
            f"needs Optuna 4 or newer, and {optuna.__version__} is installed: pip install 'hpctrain[sweep]'"
        )
        raise UserError("sweep.sampler", "", what)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna


def journal_backend(path: Path) -> Any:
    """Returns Optuna's journal file in a form that a full disk or a killed process cannot leave with half a line."""
    optuna()
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class Backend(JournalFileBackend):
        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            with journal_lock(path):
                cut_torn_line(path)
                size = path.stat().st_size
                try:
                    append(path, logs)
                except OSError:
                    os.truncate(path, size)
                    raise

    def journal_lock(path: Path) -> Any:
        from optuna.storages.journal._file import get_lock_file

        return get_lock_file(JournalFileOpenLock(str(path), grace_period=JOURNAL_GRACE_S))

    return Backend(str(path))


def append(path: Path, logs: Sequence[Mapping[str, Any]]) -> None:
    """Appends the logs as JSON lines and syncs the file. Raises OSError."""
    text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
    with path.open("ab") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def cut_torn_line(path: Path) -> None:
    """Removes anything after the last complete line, which was never acknowledged as written. Raises OSError."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


class Search:
    """One job's sampler. Raises RunFailed("DISK_FULL" or "STORAGE_ERROR") if the journal cannot be written."""

    def __init__(
        self,
        study: StudyDir,
        settings: SweepConfig,
        space: Sequence[Swept],
        fixed: Sequence[str],
        higher_is_better: bool,
    ) -> None:
        self._study, self._settings, self._space = study, settings, space
        self._composer = Composer(fixed)
        self._told: set[int] = set()
        library = optuna()
        try:
            backend = journal_backend(study.journal)
            self._optuna = library.create_study(
                study_name=study.name,
                storage=library.storages.JournalStorage(backend),
                direction="maximize" if higher_is_better else "minimize",
                sampler=sampler(settings),
                load_if_exists=True,
            )
        except OSError as error:
            raise _failed(error) from None

    def suggest(self) -> Trial | None:
        """Publishes a new run for all jobs and returns it; None if the study has as many as were asked for."""
        limit = int(self._study.parts()[-1]["sweep"]["trials"] or 0)  # a later `sweep` may ask for more
        try:
            for _ in range(TRIES):
                self.tell()
                if sum(1 for _ in self._study.suggestions()) >= limit:
                    return None
                asked = self._optuna.ask(distributions(self._space))
                overrides = written(self._space, asked.params)
                suggested = trial(self._composer, overrides)[0]
                if self._study.add_suggestion(suggested, asked.number, limit):
                    if f"{suggested.run_id}.0" not in self._study.ended_keys():
                        return suggested
                else:
                    self._optuna.tell(asked, state=optuna().trial.TrialState.FAIL)
        except OSError as error:
            raise _failed(error) from None
        return None

    def tell(self) -> None:
        """Tells the sampler every result that it does not know yet."""
        keys = self._study.ended_keys()
        state = optuna().trial.TrialState
        for number, suggestion in self._study.suggestions():
            key = f"{suggestion['run_id']}.0"
            if number in self._told or key not in keys:
                continue
            ended = self._study.read_ended(key)
            value = ended and ended["value"]
            failed = state.FAIL if value is None else None
            self._optuna.tell(suggestion["optuna"], value, state=failed, skip_if_finished=True)
            self._told.add(number)


def sampler(settings: SweepConfig) -> Any:
    """Returns Optuna's sampler for the settings; each job draws from its own stream. Raises UserError."""
    samplers = optuna().samplers
    seed = random.Random(f"{settings.seed}.{job_environment.read().job_id or os.getpid()}").randrange(2**31)
    match settings.sampler:
        case "tpe":
            return samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True, group=True)
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed)
        case "gp":
            return samplers.GPSampler(seed=seed)
        case "qmc":
            return samplers.QMCSampler(seed=settings.seed)
    return samplers.NSGAIISampler(seed=seed)


def check_sampler(settings: SweepConfig) -> None:
    """Raises UserError if a package that the sampler needs is missing."""
    sampler(settings)
    if settings.sampler == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise UserError("sweep.sampler", "cmaes", "needs the package: pip install 'hpctrain[sweep]'")


def distributions(space: Sequence[Swept]) -> dict[str, Any]:
    """Returns the space as Optuna's distributions by key; numbers in a list are categories, not a range."""
    kinds = optuna().distributions
    by_key = {}
    for s in space:
        if not isinstance(s, Interval):
            by_key[s.key] = kinds.CategoricalDistribution(list(s.values))
        elif s.integer:
            by_key[s.key] = kinds.IntDistribution(int(s.low), int(s.high), log=s.log)
        else:
            by_key[s.key] = kinds.FloatDistribution(s.low, s.high, log=s.log)
    return by_key


def importances(
    params: Mapping[str, Sequence[Any]],
    values: Sequence[float],
    higher_is_better: bool,
    log: Container[str] = (),
) -> dict[str, float]:
    """Returns how much each setting matters to the better runs; {} if Optuna is missing or cannot say.

    `log`: the settings that were swept on a logarithmic scale.
    """
    try:
        library = optuna()
    except UserError:
        return {}
    kinds = library.distributions
    space: dict[str, Any] = {}
    for key, given in params.items():
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
        if numbers and len(set(given)) > 8:
            space[key] = kinds.FloatDistribution(min(given), max(given), log=key in log)
        else:
            space[key] = kinds.CategoricalDistribution(sorted({str(v) for v in given}))
    study = library.create_study(direction="maximize" if higher_is_better else "minimize")
    for n, value in enumerate(values):
        chosen = {
            key: float(given[n]) if isinstance(space[key], kinds.FloatDistribution) else str(given[n])
            for key, given in params.items()
        }
        study.add_trial(library.trial.create_trial(params=chosen, distributions=space, value=value))
    try:
        with _without("sklearn"):  # only another evaluator needs it, and its import takes a second
            evaluator = library.importance.PedAnovaImportanceEvaluator()
        return dict(library.importance.get_param_importances(study, evaluator=evaluator))
    except (ValueError, RuntimeError):
        return {}


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """Makes imports of an optional package fail as if it were not installed, unless it is imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def written(space: Sequence[Swept], params: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns Optuna's parameters as overrides."""
    return tuple(
        f"{s.key}={s.written(params[s.key]) if isinstance(s, Interval) else params[s.key]}" for s in space
    )


def _failed(error: OSError) -> RunFailed:
    return storage_failure(error, "the study cannot be written")
