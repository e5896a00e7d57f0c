"""hpctrain as it is installed: from its wheel in any folder, and where Horovod is not there."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The unpacked wheel, which shadows the checkout where it comes first on PYTHONPATH."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, CHECKOUT], check=True, timeout=120)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(cwd, path, *args):
    return subprocess.run(
        [sys.executable, "-m", "hpctrain.cli", *args],
        cwd=cwd, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(path)},
    )  # fmt: skip


def test_the_wheel_carries_what_a_checkout_has(wheel):
    carried = {
        p.relative_to(wheel / "hpctrain" / "conf") for p in (wheel / "hpctrain" / "conf").rglob("*.yaml")
    }
    assert carried == {p.relative_to(CHECKOUT / "conf") for p in (CHECKOUT / "conf").rglob("*.yaml")}
    assert (wheel / "hpctrain" / "py.typed").exists()
    assert "hpctrain = hpctrain.cli:main" in next(wheel.glob("*.dist-info/entry_points.txt")).read_text()


def test_the_wheel_trains_from_any_folder(wheel, tmp_path):
    where = subprocess.run(
        [sys.executable, "-c", "import hpctrain; print(hpctrain.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(wheel)},
    )  # fmt: skip
    assert where.stdout.strip() == str(wheel / "hpctrain" / "__init__.py")
    done = run(tmp_path, wheel, "train", "lenet_digits", "train.steps=3")
    assert done.returncode == 0, done.stderr
    assert "throughput" in done.stdout
    assert list(tmp_path.glob("runs/default/*/curves.png"))


def test_without_horovod_one_rank_works_and_two_say_what_to_run(tmp_path):
    blocker = tmp_path / "site"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        "import importlib.machinery, sys\n"
        "class Without(importlib.machinery.PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, *rest):\n"
        "        hidden = name.partition('.')[0] in ('horovod', 'mpi4py')\n"
        "        return None if hidden else super().find_spec(name, *rest)\n"
        "sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without\n"
    )
    path = f"{blocker}:{CHECKOUT}"
    one = run(tmp_path, path, "train", "lenet_digits", "train.steps=3")
    assert one.returncode == 0, one.stderr
    two = run(tmp_path, path, "train", "lenet_digits", "train.steps=4", "resources.ranks=2")
    assert two.returncode == 2
    assert "resources.ranks=2" in two.stderr
    assert "slurm/build_horovod" in two.stderr
    assert len(two.stderr.splitlines()) == 1
