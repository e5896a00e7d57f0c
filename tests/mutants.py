"""Mutation runs of the pure modules, each against its own unit tests alone: `make mutants`, or one by its name.

python tests/mutants.py training.schedule    # one or several modules; without names all of them

Prints `module killed/total percent` for each, then the mutants that survived if there are too many of them, and
exits with 1 if a module's own tests kill less than 90 %. mutmut makes the mutants and runs the tests, in
.mutants/MODULE: `cd .mutants/MODULE && mutmut show MUTANT` shows what one of them changes.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".mutants"
ENOUGH = 0.9

MODULES = (
    "errors",
    "shown",
    "hardware",
    "job_environment",
    "patience",
    "training.arrivals",
    "training.buckets",
    "training.schedule",
    "training.progress",
    "training.step_timer",
    "training.window",
    "storage.files",
    "storage.succession",
    "storage.lock",
    "storage.attempts",
    "storage.json_files",
    "storage.run_state",
    "storage.rebuild",
    "storage.ownership",
    "storage.records",
    "storage.full_disk",
    "storage.last_word",
    "storage.config_file",
    "checkpoints.policy",
    "checkpoints.tensor_file",
    "models.sampling",
    "models.settings_image",
    "models.settings_sequence",
    "scaling.laws",
    "scaling.network",
    "scaling.horovod_timeline",
    "scaling.plan",
    "scaling.comm_settings",
    "scaling.predict",
    "report.html",
    "report.numbers",
    "report.intervals",
    "sweep.asha",
    "sweep.arrays",
    "sweep.claims",
    "sweep.leaderboard",
    "sweep.living",
    "sweep.samplers",
    "sweep.space",
    "config.image_sizes",
    "config.messages",
    "config.near",
    "config.from_environment",
    "config.yaml_files",
    "config.identity",
    "config.swept",
    "config.tasks",
    "data.lines",
    "data.sampler",
    "data.translation.source",
    "flops.ctc",
    "flops.runs",
    "flops.conventions",
    "flops.rules",
    "flops.roofline",
    "launch.failure",
    "launch.launcher_logs",
    "launch.status",
    "launch.standing",
    "launch.doctor.findings",
    "scheduler.answers",
    "scheduler.recognition",
    "scheduler.site",
    "scheduler.sbatch",
    "scheduler.time_limit",
)


def tests_of(module: str) -> str:
    """Returns the one file of tests that counts for a module."""
    *packages, name = module.split(".")
    return "/".join(("tests/unit", *packages, f"test_{name}.py"))


def prepare(module: str) -> Path:
    """Returns a new folder with this project's files, set up for the mutants of one module."""
    folder = WORK / module
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("hpctrain", "tests", "conf"):
        (folder / name).symlink_to(ROOT / name)
    settings = {
        "source_paths": ["hpctrain"],
        "only_mutate": [f"hpctrain/{module.replace('.', '/')}.py"],
        "also_copy": ["conf"],
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": [tests_of(module)],
        "use_git_change_detection": False,
        # Per mutant: (what its tests take + constant) x multiplier, in seconds.
        "timeout_constant": 3.0,
        "timeout_multiplier": 3.0,
    }
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    project = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(f"{project}\n[tool.mutmut]\n{text}\n")
    return folder


def mutmut(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs mutmut in a prepared folder, which comes before all else on the path of imports."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("mutmut")), *words]
    return subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def measure(module: str) -> bool:
    """Returns whether a module's tests kill enough of its mutants, and prints how many."""
    folder = prepare(module)
    ran = mutmut(folder, "run")
    if ran.returncode:
        print(f"{module}: mutmut failed\n{ran.stdout}", flush=True)
        return False
    mutmut(folder, "export-cicd-stats")
    counts = json.loads((folder / "mutants/mutmut-cicd-stats.json").read_text())
    killed, total = counts["killed"] + counts["timeout"], counts["total"] - counts["skipped"]
    enough = killed >= ENOUGH * total
    print(f"{module} {killed}/{total} {killed / total:.0%}", flush=True)
    if not enough:
        print(mutmut(folder, "results").stdout, flush=True)
    return enough


if __name__ == "__main__":
    held = [measure(module) for module in sys.argv[1:] or MODULES]
    sys.exit(not all(held))
