"""The user's network meets its data before anything starts: it passes, or one sentence says what is wrong and where."""

import signal
import sys
from pathlib import Path

import pytest

from hpctrain.data.derive import load
from hpctrain.errors import UserError
from hpctrain.tasks import rehearsal
from tests.integration import odd_networks

PICTURES = ("data=digits", "data.shape=[1,16,16]", "data.pad=0")


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    monkeypatch.syspath_prepend(odd_networks.__file__.rpartition("/")[0])


def config_of(name, *words):
    return load(
        ["model=custom", f"model.target=odd_networks:{name}", *(words or PICTURES), "resources.ranks=1"]
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("name", odd_networks.EQUAL)
def test_what_trains_passes(name):
    rehearsal.play(config_of(name))


@pytest.mark.parametrize("kind", odd_networks.REFUSED)
def test_what_cannot_train_has_its_sentence(kind):
    with pytest.raises(UserError) as refused:
        rehearsal.play(config_of(kind.__name__))
    assert odd_networks.REFUSED[kind] in str(refused.value)
    assert str(refused.value).startswith("model.target=")


def test_a_network_too_large_for_a_login_node_is_not_tried(monkeypatch):
    monkeypatch.setattr(rehearsal, "LARGEST", 100)
    rehearsal.play(config_of("FiveOutputs"))


@pytest.mark.parametrize(
    ("words", "shapes"),
    [
        (PICTURES, [(3, 1, 16, 16)]),
        (("data=python_stdlib", "task=language_model", "data.vocabulary_size=100"), [(3, 100)]),
    ],
)
def test_made_up_samples_have_the_shapes_of_the_data(words, shapes):
    assert [tuple(t.shape) for t in rehearsal.inputs(config_of("Plain", *words), 3)] == shapes


def test_a_network_that_takes_long_is_left_to_the_ranks(monkeypatch):
    """It would wait for an hour; the timer is as before afterwards."""
    monkeypatch.setattr(rehearsal, "PATIENCE_S", 0.5)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "slurm")
    config = load(
        ["model=custom", "model.target=slow_network:SlowNetwork", "+model.pause_s=3600", "data=digits"]
    )
    handler = signal.getsignal(signal.SIGALRM)
    rehearsal.play(config)
    assert signal.getsignal(signal.SIGALRM) is handler


@pytest.mark.parametrize("place", ["init", "forward"])
def test_a_network_that_ends_the_program_has_its_sentence(monkeypatch, tmp_path, place):
    """Before, the command ended with the network's exit code, and nothing was said."""
    (tmp_path / "ends.py").write_text(
        "import sys\nfrom torch import nn\n"
        "class Ends(nn.Module):\n"
        "    def __init__(self, place):\n"
        "        super().__init__()\n"
        "        self.line = nn.Linear(256, 10)\n"
        "        if place == 'init':\n"
        "            sys.exit('bye')\n"
        "    def forward(self, x):\n"
        "        sys.exit(0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ends", raising=False)
    with pytest.raises(UserError, match=r"ends\.py, line"):
        rehearsal.play(
            load(["model=custom", "model.target=ends:Ends", f"+model.place={place}", "data=digits"])
        )


def test_a_network_without_a_gradient_has_its_sentence(monkeypatch, tmp_path):
    """Before, it failed in the rank, with a traceback."""
    (tmp_path / "apart.py").write_text(
        "from torch import nn\n"
        "class Apart(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.line = nn.Linear(1024, 10)\n"
        "    def forward(self, x):\n"
        "        return self.line(x.flatten(1)).detach()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="trains nothing: its output is detached"):
        rehearsal.play(load(["model=custom", "model.target=apart:Apart", "data=digits"]))
