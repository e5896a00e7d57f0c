"""The table of tasks: it and conf/task agree, and all that it names is there."""

import pkgutil

import pytest

from hpctrain.config import compose
from hpctrain.config.data_kinds import DATA_KINDS
from hpctrain.config.settings import TaskConfig
from hpctrain.config.tasks import TASK_KINDS, networks_of, scores_of
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
    assert networks_of("classification") == [*NETWORKS]


def test_a_task_summarises_its_scores():
    task = make_task(TaskConfig(), None)
    assert task.summarise([1.0, 1.0, 1.0]).keys() == scores_of("classification").keys()


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
