"""The table of tasks: it and conf/task agree, and all that it names is there."""

import math
import pkgutil

import pytest

from hpctrain.config import compose
from hpctrain.config.data_kinds import DATA_KINDS
from hpctrain.config.settings import TaskConfig
from hpctrain.config.tasks import TASK_KINDS, Score, TaskKind, networks_of, perplexity, scores_of
from hpctrain.data.derive import load
from hpctrain.errors import UserError
from hpctrain.models.settings import NETWORKS
from hpctrain.tasks import make_task


def test_the_table_and_conf_agree():
    assert set(compose.groups()["task"]) == TASK_KINDS.keys()


@pytest.mark.parametrize("kind", TASK_KINDS.values(), ids=TASK_KINDS)
def test_all_that_a_row_names_is_there(kind):
    assert callable(pkgutil.resolve_name(kind.task))
    assert any(kind.fits(network) for network in NETWORKS.values())
    assert len({score.name for score in kind.scores}) == len(kind.scores)
    assert (kind.family is None) == (kind.example == "")
    if kind.example:
        assert DATA_KINDS[kind.example].family is kind.family


def test_the_networks_of_a_task():
    assert networks_of("language_model") == ["rnn", "gru", "lstm"]
    assert networks_of("masked_language_model") == ["rnn", "birnn", "gru", "lstm"]
    assert networks_of("speech_recognition") == ["deep_speech2"]
    assert networks_of("translation") == ["gnmt", "gnmt_moe"]
    assert networks_of("classification") == [
        n for n, network in NETWORKS.items() if network.inputs == "image"
    ]


def test_a_network_of_words_is_refused_for_pictures():
    with pytest.raises(
        UserError, match=r"^model=lstm: task=classification needs perceptron, .*; task=language_model or "
    ):
        load(["lenet_digits", "model=lstm"])


SUMS = {
    "classification": ([6.0, 3.0, 4.0], {"loss": 1.5, "accuracy": 0.75}),
    "language_model": (
        [8 * math.log(2), 4.0, 2.0],
        {"loss": 2 * math.log(2), "perplexity": 4.0, "bits_per_character": 4.0},
    ),
    "masked_language_model": ([0.0, 4.0, 0.0], {"loss": 0.0, "perplexity": 1.0}),
    "speech_recognition": ([5.0, 3.0, 10.0], {"loss": 0.5, "character_error_rate": 0.3}),
    "translation": ([3 * math.log(2), 2.0, 3.0], {"loss": math.log(2), "perplexity": 2.0, "accuracy": 2 / 3}),
}


@pytest.mark.parametrize("name", TASK_KINDS)
def test_a_row_makes_scores_of_sums(name):
    sums, expected = SUMS[name]
    scores = TASK_KINDS[name].summarise(sums)
    assert scores == pytest.approx(expected)
    assert next(iter(scores)) == "loss"


@pytest.mark.parametrize("name", TASK_KINDS)
def test_scores_of_nothing_are_finite(name):
    assert all(math.isfinite(score) for score in TASK_KINDS[name].summarise([0.0, 0.0, 0.0]).values())


def test_a_perplexity_too_large_for_a_float_is_capped():
    assert perplexity(1e5, 1.0) == math.exp(700)


def test_a_task_made_from_its_settings_has_the_scores_of_its_row():
    assert make_task(TaskConfig(), None).summarise([6.0, 3.0, 4.0]) == SUMS["classification"][1]


def test_a_score_without_a_formula_is_the_evaluators():
    kind = TaskKind("a:B", (Score("area"), Score("loss", lambda loss: loss)))
    assert kind.summarise([2.0]) == {"loss": 2.0}


def test_the_first_score_is_the_one_that_counts():
    first = {name: next(iter(scores_of(name).values())) for name in TASK_KINDS}
    known = {
        "classification": ("accuracy", True),
        "language_model": ("perplexity", False),
        "masked_language_model": ("perplexity", False),
        "speech_recognition": ("character_error_rate", False),
        "translation": ("perplexity", False),
    }
    assert {name: (first[name].name, first[name].higher_is_better) for name in known} == known


def test_of_an_unknown_task_the_loss_counts():
    assert list(scores_of("origami")) == ["loss"]
    assert not scores_of("origami")["loss"].higher_is_better
