"""The pure parts of slurm/build_horovod, and what it says to bad input; the build itself is make's set-up."""

import importlib.machinery
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm/build_horovod"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("build_horovod", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("build_horovod", loader))
    sys.modules["build_horovod"] = module  # dataclasses look their module up there
    loader.exec_module(module)
    yield module
    del sys.modules["build_horovod"]


@pytest.fixture
def plan(script):
    settings = {"HOROVOD_WITH_MPI": "1"}
    return script.Plan("2.13.0+cpu", "cp311", "x86_64", "openmpi-4.1.4", None, settings, {})


@pytest.mark.parametrize(
    ("library_version", "tag"),
    [
        ("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, repo rev: v4.1.4", "openmpi-4.1.4"),
        ("Open MPI v5.0.0rc7, package: x", "openmpi-5.0.0rc7"),
        ("MPICH Version:\t4.0.2\nMPICH Release date:\tThu Apr  7 12:34:45 CDT 2022", "mpich-4.0.2"),
        ("MVAPICH2 Version      :\t2.3.7\nMVAPICH2 Release date : 2022", "mvapich2-2.3.7"),
        ("Intel(R) MPI Library 2021.10 for Linux* OS\n", "intelmpi-2021.10"),
        ("MPI VERSION    : CRAY MPICH version 8.1.25.17 (ANL base 3.4a2)", "mpicraympich-8.1.25.17"),
    ],
)
def test_mpi_tag_names_the_library(script, library_version, tag):
    assert script.mpi_tag(library_version) == tag


def test_mpi_tag_refuses_what_it_cannot_read(script):
    with pytest.raises(script.Failed, match="no numbers"):
        script.mpi_tag("no numbers here")


def test_cuda_cc_list_is_sorted_and_without_repeats(script):
    assert script.cuda_cc_list("9.0\n8.0\n9.0\n12.0\n") == "80,90,120"


def test_the_cache_key_tells_apart_what_gives_another_binary(plan):
    others = [
        replace(plan, torch="2.13.0+cu130"),
        replace(plan, python="cp312"),
        replace(plan, machine="aarch64"),
        replace(plan, mpi=None),
        replace(plan, mpi="openmpi-4.1.5"),
        replace(plan, cuda="13.0"),
        replace(plan, settings={"HOROVOD_WITH_MPI": "1", "HOROVOD_WITHOUT_GLOO": "1"}),
    ]
    assert len({plan.key, *(other.key for other in others)}) == len(others) + 1
    assert replace(plan, places={"HOROVOD_CUDA_HOME": "/opt/cuda"}).key == plan.key
    assert plan.key.startswith("horovod-0.28.1_torch-2.13.0+cpu_cp311_openmpi-4.1.4_cpu_x86_64_")


def test_patches_change_the_named_text_and_refuse_another_source(script, tmp_path):
    (tmp_path / "a").write_text("set(X 14)\nkeep\n")
    script.apply_patches(tmp_path, [("a", "set(X 14)", "set(X 20)")])
    assert (tmp_path / "a").read_text() == "set(X 20)\nkeep\n"
    with pytest.raises(script.Failed, match="lacks the text to patch"):
        script.apply_patches(tmp_path, [("a", "set(X 14)", "set(X 20)")])


def test_the_build_sees_only_the_plans_horovod_settings(script, plan, tmp_path, monkeypatch):
    monkeypatch.setenv("HOROVOD_WITHOUT_GLOO", "1")
    environment = script.build_environment(plan, 3, tmp_path)
    chosen = {name: value for name, value in environment.items() if name.startswith("HOROVOD_")}
    assert chosen == plan.settings
    assert environment["MAKEFLAGS"] == "-j3"


def test_torchs_own_nccl_gets_the_name_a_linker_looks_for(script, plan, tmp_path):
    library = tmp_path / "nccl/lib/libnccl.so.2"
    library.parent.mkdir(parents=True)
    library.touch()
    places = {"HOROVOD_CUDA_HOME": "/opt/cuda", "HOROVOD_NCCL_HOME": str(tmp_path / "nccl")}
    environment = script.build_environment(replace(plan, cuda="13.0", places=places), 1, tmp_path)
    assert (Path(environment["HOROVOD_NCCL_LIB"]) / "libnccl.so").resolve() == library
    assert environment["PATH"].startswith("/opt/cuda/bin:")


def test_a_failed_command_shows_its_errors_and_keeps_the_log(script, tmp_path, capsys):
    log = tmp_path / "log"
    noise = "; ".join(f"echo noise {i}" for i in range(40))
    with pytest.raises(script.Failed, match="exit code 3") as failed:
        script.run_logged(
            ["sh", "-c", f"echo 'a.cc:1: error: bad'; {noise}; exit 3"], log, "Compiling", "1 s"
        )
    text = str(failed.value)
    assert "a.cc:1: error: bad" in text
    assert "noise 39" in text
    assert "noise 3\n" not in text
    assert str(log) in text
    assert "Compiling (usually 1 s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--cuda-cc", "9.0"], "--cuda-cc 9.0: must be numbers with commas, such as 80,90"),
        (["--source", "/nowhere/x.tar.gz"], "--source /nowhere/x.tar.gz: no such file"),
        (["--python", "/nowhere/python"], "--python /nowhere/python: No such file"),
    ],
)
def test_bad_input_ends_with_exit_code_2_and_one_line(arguments, named):
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], text=True, capture_output=True)
    assert done.returncode == 2
    assert named in done.stderr.splitlines()[-1]
