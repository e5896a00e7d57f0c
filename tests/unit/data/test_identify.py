"""What a user brings counts by what it is: data, code and weights, at whatever path."""

import json
import os
import shutil
from pathlib import Path

import pytest

from hpctrain.config import load
from hpctrain.data import contents, derive, identify
from hpctrain.errors import RunFailed, UserError
from hpctrain.storage.run_dir import RunDir
from tests.waiting import until


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HPCTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def parallel(folder, text="a house\n"):
    folder.mkdir()
    for name in ("train.en", "train.de", "valid.en", "valid.de"):
        (folder / name).write_text(text * 3)
    return folder


def pictures(folder):
    for split in ("train", "val"):
        for kind in ("cat", "dog"):
            (folder / split / kind).mkdir(parents=True)
            (folder / split / kind / "1.png").write_bytes(f"{split} {kind}".encode())
    return folder


def of(*words):
    """The id, the files looked at anew."""
    identify.forget()
    return identify.run_id(derive.load(list(words)))


def begun(tmp_path, *words):
    """A run of these settings that has its identity.json."""
    config = derive.load(list(words))
    run = RunDir(tmp_path / "run")
    run.create(load.to_dict(config))
    identify.note(run, config)
    return run, config


PAIRS = ("experiment=gnmt_gettext", "data=parallel", "model.vocabulary_size=32000")
IMAGES = ("data=image_folder", "model=resnet18", "data.num_classes=2")


def test_two_corpora_are_two_runs_and_a_copy_is_the_same(tmp_path):
    one, other = parallel(tmp_path / "a"), parallel(tmp_path / "b", "a mouse\n")
    assert of(*PAIRS, f"data.path={one}") != of(*PAIRS, f"data.path={other}")
    same = of(*PAIRS, f"data.path={one}")
    shutil.copytree(one, tmp_path / "copy")
    (tmp_path / "link").symlink_to(one)
    for path in (tmp_path / "copy", tmp_path / "link", "a", "./a/", f"{one}/"):
        assert of(*PAIRS, f"data.path={path}") == same, path
    assert of(*PAIRS, f"data.path={one}", "data.train_limit=2") != same


def test_a_text_of_the_same_size_is_another(tmp_path):
    text = tmp_path / "text.txt"
    words = ("experiment=char_lstm_python", "data=text", f"data.path={text}", "data.vocabulary_size=9",
             "model.vocabulary_size=9")  # fmt: skip
    text.write_text("one two\n" * 9)
    before = of(*words)
    run, config = begun(tmp_path, *words)
    identify.refuse_change(run, config)
    stat = text.stat()
    text.write_text("one tow\n" * 9)
    os.utime(text, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert of(*words) != before
    with pytest.raises(UserError, match="the file has changed since the run began"):
        identify.refuse_change(run, config)
    with pytest.raises(RunFailed, match="DATA_ERROR"):
        identify.refuse_change_here(run, config)


def test_a_digest_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    folder = parallel(tmp_path / "a")
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    monkeypatch.setattr(contents, "SETTLED_S", -60.0)
    files = sorted(folder.iterdir())
    first = contents.digests(folder, files, whole=True)
    monkeypatch.setitem(contents.READ, "whole", lambda path: f"read {path.name}")
    assert contents.digests(folder, files, whole=True) == first
    (folder / "train.de").write_text("new\n")
    assert contents.digests(folder, files, whole=True) == first | {"train.de": "read train.de"}


def test_pictures_added_removed_and_changed_are_named(tmp_path):
    folder = pictures(tmp_path / "set")
    run, config = begun(tmp_path, *IMAGES, f"data.path={folder}")
    before = of(*IMAGES, f"data.path={folder}")
    picture = folder / "train" / "cat" / "1.png"
    for change, said in (
        (lambda: (picture.with_name("2.png")).write_bytes(b"x"), "train/cat/2.png was added"),
        (lambda: picture.write_bytes(b"train cow"), "train/cat/1.png has changed .and 1 more."),
        (picture.unlink, "train/cat/1.png was removed .and 1 more."),
    ):
        change()
        with pytest.raises(UserError, match=said):
            identify.refuse_change(run, config)
        assert of(*IMAGES, f"data.path={folder}") != before


def test_large_sets_go_by_name_and_size(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "WHOLE_BYTES", 10)
    monkeypatch.setattr(contents, "SAMPLED_BYTES", 100)
    monkeypatch.setattr(contents, "BLOCK_BYTES", 10)
    (tmp_path / "list.txt").write_text("a")
    (tmp_path / "small.png").write_bytes(b"12345")
    (tmp_path / "large.arrow").write_bytes(bytes(1000))
    files = sorted(p for p in tmp_path.iterdir() if p.is_file())
    found = contents.digests(tmp_path, files)
    assert found["small.png"] == "5 bytes"
    (tmp_path / "large.arrow").write_bytes(bytes(990) + b"0123456789")
    (tmp_path / "list.txt").write_text("b")
    now = contents.digests(tmp_path, files)
    assert {name for name in now if now[name] != found[name]} == {"list.txt", "large.arrow"}
    monkeypatch.setattr(contents, "MOST_NAMES", 2)
    assert contents.digests(tmp_path, files)["/"].startswith("3 files ")


def test_code_behind_a_target_counts_with_what_it_imports(tmp_path):
    name = f"net_{os.getpid()}"
    net, layers = tmp_path / f"{name}.py", tmp_path / f"{name}_layers.py"
    net.write_text(f"import torch\nfrom {name}_layers import act\n")
    layers.write_text("act = 'ReLU'\n")
    words = ("experiment=lenet_digits", "model=custom", f"model.target={name}:Net")
    assert set(contents.of_code(f"{name}:Net").files) == {net.name, layers.name}
    before = of(*words)
    run, config = begun(tmp_path, *words)
    layers.write_text("act = 'Tanh'\n")
    assert of(*words) != before
    with pytest.raises(UserError, match=f"{layers.name} has changed since the run began"):
        identify.refuse_change(run, config)
    with pytest.raises(RunFailed, match="CONFIG_CHANGED"):
        identify.refuse_change_here(run, config)
    meant = derive.load([*words, "checkpoint.allow_change=true"])
    identify.refuse_change(run, meant)


@pytest.mark.parametrize(
    "loads",
    [
        "importlib.import_module('{}.parts')",
        "import_module('{}')",
        "__import__('{}')",
        "pkgutil.resolve_name('{}:x')",
    ],
)
def test_code_that_is_loaded_by_its_name_counts(tmp_path, loads):
    net, layers = f"net_{tmp_path.name}", f"by_name_{tmp_path.name}"
    (tmp_path / f"{net}.py").write_text(f"def build():\n    return {loads.format(layers)}\n")
    (tmp_path / f"{layers}.py").write_text("x = 'ReLU'\n")
    assert set(contents.of_code(f"{net}:Net").files) == {f"{net}.py", f"{layers}.py"}


@pytest.mark.parametrize(
    "loads", ["import_module()", "import_module(name)", "import_module(b'x')", "f()('x')"]
)
def test_what_has_no_name_until_it_runs_is_passed_over(tmp_path, loads):
    net = f"net_{tmp_path.name}"
    (tmp_path / f"{net}.py").write_text(f"{loads}\n")
    assert set(contents.of_code(f"{net}:Net").files) == {f"{net}.py"}


def test_code_in_a_linked_folder_of_a_package_counts(tmp_path):
    package, layers = tmp_path / f"linked_{os.getpid()}", tmp_path / "elsewhere"
    package.mkdir(), layers.mkdir()
    (package / "__init__.py").write_text("from .layers.act import act\n")
    (package / "layers").symlink_to(layers)
    (layers / "round").symlink_to(package)
    (layers / "act.py").write_text("act = 'ReLU'\n")
    files = contents.of_code(f"{package.name}:Net").files
    assert set(files) == {f"{package.name}/__init__.py", f"{package.name}/layers/act.py"}
    (layers / "act.py").write_text("act = 'Tanh'\n")
    assert contents.of_code(f"{package.name}:Net").files != files


def test_a_named_set_that_has_changed_is_told_who_asks_again(tmp_path):
    """Its id is by name alone, and the run is done: no rank 0 would look."""
    folder = tmp_path / "data" / "ptb"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("a house and a mouse\n" * 50)
    words = ("experiment=char_lstm_python", "data=ptb", "data.tokens=word", "data.vocabulary_size=5")
    run, config = begun(tmp_path, *words)
    identify.refuse_other_set(run, config)
    identify.refuse_change_here(run, config)
    before = of(*words)
    (folder / "train.txt").write_text("a house and a louse\n" * 50)
    assert of(*words) == before
    said = r"data\.path=data/ptb: train\.txt has changed since the run began; .*data\.path=FOLDER"
    with pytest.raises(UserError, match=said):
        identify.refuse_other_set(run, config)
    with pytest.raises(RunFailed, match="DATA_ERROR"):
        identify.refuse_change_here(run, config)
    assert of(*words, "data.path=data/ptb") != before


def test_weights_count_by_content(tmp_path):
    one, other = tmp_path / "a.pt", tmp_path / "b.pt"
    one.write_bytes(b"1"), other.write_bytes(b"1")
    words = ("experiment=lenet_digits",)
    assert of(*words, f"model.weights={one}") == of(*words, f"model.weights={other}") != of(*words)
    other.write_bytes(b"2")
    assert of(*words, f"model.weights={one}") != of(*words, f"model.weights={other}")


def test_data_not_seen_from_here_counts_by_path_until_rank_0_sees_it(tmp_path):
    words = [*PAIRS, f"data.path={tmp_path / 'far'}"]
    assert of(*words) != of(*PAIRS, "data.path=/other")
    run, config = begun(tmp_path, *words)
    parallel(tmp_path / "far")
    identify.refuse_change_here(run, config)
    (tmp_path / "far" / "valid.de").write_text("else\n")
    with pytest.raises(RunFailed, match=r"valid.de has changed"):
        identify.refuse_change_here(run, config)


def test_a_configuration_edited_by_hand_is_refused(tmp_path):
    run, _ = begun(tmp_path, "experiment=lenet_digits")
    edited = derive.load(["experiment=lenet_digits", "optimizer.lr=0.7"])
    with pytest.raises(UserError, match=r"optimizer.lr=0.7: the run was made with 0.05"):
        identify.refuse_change(run, edited)


def test_a_run_without_identity_json_goes_on(tmp_path):
    run, config = begun(tmp_path, "experiment=lenet_digits")
    run.identity_file.unlink()
    identify.refuse_change(run, config)
    identify.refuse_change_here(run, config)
    assert run.identity_file.exists()


@pytest.mark.parametrize("command", ["train", "resume"])
def test_the_golden_run_of_this_version_resumes(tmp_path, command):
    """A run folder that 0.1.0 left after its first epoch: its checkpoint loads, and the second is trained."""
    from hpctrain import cli
    from hpctrain.checkpoints import store

    run = tmp_path / "runs" / "default" / "perceptron-digits-b52cf56ec9"
    shutil.copytree(Path(__file__).parents[2] / "golden" / "run-0.1.0", run)
    for folder in (run, *(p for p in run.rglob("*") if p.is_dir())):
        folder.chmod(0o700)
    config = load.from_dict(RunDir(run).read_config())
    assert identify.run_id(config) == run.name
    words = {"train": [*_words(), f"run.root={tmp_path}/runs"], "resume": [str(run)]}
    assert cli.main([command, *words[command]]) == 0
    until(lambda: RunDir(run).read_state().final)  # resume returns at once
    assert RunDir(run).read_state().phase == "done"
    assert [entry.step for entry in store.entries(run / "checkpoints")] == [45, 90]
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert min(line["step"] for line in lines if line["kind"] == "train") > 45


def _words():
    return ["lenet_digits", "model=perceptron", "train.epochs=2", "data.pad=0", "data.shape=[1,16,16]"]
