"""What the data says of a run's settings: looked up once, above the composing, and not at all if it is known."""

import pytest

from hpctrain import cli
from hpctrain.config.compose import compose
from hpctrain.config.data_kinds import DATA_KINDS
from hpctrain.config.load import to_dict
from hpctrain.data import derive
from hpctrain.data.images import sets
from hpctrain.data.text import tokens
from hpctrain.errors import UserError
from hpctrain.launch import resume
from hpctrain.storage.run_dir import RunDir
from hpctrain.sweep import request

TEXT = ("data=text", "model=lstm", "task=language_model", "model.hidden=8", "model.embedding=8")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HPCTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    derive._figure.cache_clear()


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one two three four five\n" * 400)
    return path


@pytest.fixture
def asked(monkeypatch):
    """The data sets that were asked for a setting, as often as they were."""
    calls = []

    def spy(function):
        return lambda data: calls.append(data.name) or function(data)

    monkeypatch.setattr(tokens, "vocabulary_size", spy(tokens.vocabulary_size))
    monkeypatch.setattr(sets, "num_classes", spy(sets.num_classes))
    return calls


def size_of(path):
    return len(set(path.read_text())) + 1  # and one for unknown characters


def test_a_text_says_how_many_tokens_there_are(text, asked):
    config = derive.load([*TEXT, f"data.path={text}"])
    assert config.data.vocabulary_size == config.model.settings.vocabulary_size == size_of(text)
    assert asked == ["text"]


def test_a_folder_of_pictures_says_how_many_classes_there_are(tmp_path, asked):
    for name in ("ant", "bee", "cat"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
    config = derive.load(["data=image_folder", f"data.path={tmp_path / 'set'}", "model=resnet18"])
    assert config.data.num_classes == config.model.settings.num_classes == 3
    assert asked == ["image_folder"]


def test_a_number_given_by_hand_stays_and_nothing_is_asked(tmp_path, asked):
    nowhere = f"data.path={tmp_path / 'nowhere'}"
    config = derive.load([*TEXT, nowhere, "data.vocabulary_size=100"])
    assert config.data.vocabulary_size == config.model.settings.vocabulary_size == 100
    config = derive.load(["data=image_folder", nowhere, "data.num_classes=5", "model=resnet18"])
    assert config.data.num_classes == config.model.settings.num_classes == 5
    assert asked == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=text"], "data.path=null: give a file or folder of UTF-8 text"),
        (["data=text", "data.path=/no/such"], "data.path=/no/such: is not a file or folder"),
        (["data=text", "data.tokens=wor"], "data.tokens=wor: must be one of character, word, bpe (did you mean word?)"),
        (["data=text", "data.name=digits"],
         "data.vocabulary_size=null: give a number: data.name=digits does not say it"),
        (["data=image_folder"], "data.path=null: give the folder that has train/<class>/ and val/<class>/"),
        (["data=image_folder", "data.path=/no/such"], "data.path=/no/such: is not a folder"),
        (["data=image_folder", "data.name=imagenet"],
         "data.path=null: imagenet is not in data/imagenet; run: hpctrain data fetch imagenet"),
    ],
)  # fmt: skip
def test_missing_data_is_one_line(words, said, monkeypatch, capfd):
    monkeypatch.delenv("HPCTRAIN_DATA", raising=False)
    with pytest.raises(UserError) as caught:
        derive.load(["model=lstm", "task=language_model", *words])
    assert str(caught.value) == said
    for command in (["train"], ["train", "--cfg", "job", "--resolve"], ["submit"], ["sweep"]):
        assert cli.main([*command, "model=lstm", "task=language_model", *words]) == 2, command
        assert capfd.readouterr().err == f"hpctrain: {said}\n", command


def test_hydra_prints_the_file_s_text_and_with_resolve_the_numbers(text, asked, capfd):
    words = ["train", *TEXT, f"data.path={text}", "--cfg", "job", "-p", "data"]
    assert cli.main(words) == 0
    assert "vocabulary_size: ${vocabulary_size:}" in capfd.readouterr().out
    assert asked == []
    assert cli.main([*words, "--resolve"]) == 0
    assert f"vocabulary_size: {size_of(text)}\n" in capfd.readouterr().out
    assert asked == ["text"]
    assert "of the data>" in compose([*TEXT, f"data.path={text}"])["data"]["vocabulary_size"]  # marks again


def test_a_sweep_asks_the_same_data_once(text, asked):
    words = [*TEXT, f"data.path={text}", "seed=range(50)", "optimizer=sgd,adam"]
    asked_for = request.understand(words)
    assert len(asked_for.trials) == 100
    assert {trial.config["model"]["vocabulary_size"] for trial in asked_for.trials} == {size_of(text)}
    assert asked == ["text"]


def test_a_sweep_over_what_the_figure_depends_on_asks_for_each(text, tmp_path, asked):
    other = tmp_path / "other.txt"
    other.write_text("ab\n" * 4000)
    trials = request.understand([*TEXT, f"data.path={text},{other}", "seed=1,2"]).trials
    sizes = {trial.config["data"]["path"]: trial.config["model"]["vocabulary_size"] for trial in trials}
    assert sizes == {str(path): size_of(path) for path in (text, other)}
    assert len(asked) == 2
    words = request.understand([*TEXT, f"data.path={text}", "data.tokens=character,word"]).trials
    assert [trial.config["data"]["vocabulary_size"] for trial in words] == [size_of(text), 7]


def test_resuming_asks_nothing(text, tmp_path, asked, monkeypatch):
    run = RunDir(tmp_path / "run")
    config = derive.load([*TEXT, f"data.path={text}"])
    run.create(to_dict(config))
    asked.clear()
    derive._figure.cache_clear()
    assert resume.configuration(run, []) == config
    assert resume.configuration(run, ["train.log_every=7"]).data == config.data
    assert asked == []


@pytest.mark.parametrize("name", sorted(DATA_KINDS))
def test_settings_without_a_mark_are_not_changed(name, asked):
    values = compose(
        [f"data={name}", "data.path=/nowhere", *(f"data.{s}=9" for s in DATA_KINDS[name].derived)]
    )
    assert derive.derive(values) == values
    assert asked == []
