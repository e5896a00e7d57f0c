"""Language models at work: the tasks' sums, state that is carried, streams over ranks, sampling."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hpctrain.config.settings import TaskConfig
from hpctrain.data import sampler
from hpctrain.data.text.sequences import TextDataset
from hpctrain.data.text.vocabulary import Characters, Words
from hpctrain.errors import UserError
from hpctrain.models import build
from hpctrain.models.sampling import continue_tokens
from hpctrain.models.settings import SETTINGS
from hpctrain.tasks import make_task
from hpctrain.training import state
from hpctrain.training.comm import Comm
from hpctrain.training.evaluation import evaluate
from hpctrain.training.step import Carried

V, T = 12, 5
KNOWN = Characters([chr(97 + i) for i in range(V - 1)])


def dataset(count=400, length=T, vocabulary=KNOWN):
    return TextDataset(np.random.default_rng(0).integers(1, V, count).astype(np.uint16), length, vocabulary)


def small(name="lstm", **settings):
    torch.manual_seed(0)
    return build(name, SETTINGS[name](vocabulary_size=V, embedding=6, hidden=8, init_range=0.4, **settings))


def task(name="language_model", vocabulary=KNOWN, **settings):
    return make_task(TaskConfig(name, **settings), dataset(vocabulary=vocabulary))


class Ranks(Comm):
    """Rank `rank` of `size`, which talks to nobody: its own sums are all that it gathers, and it is sent no scores."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def broadcast_object(self, value):
        return value if self.rank == 0 else {}


def evaluated(model, one, data, comm, batch, batch_size):
    """The scores of `data`, and this rank's sums that they are made of."""
    evaluator = one.evaluator(data)
    scores = evaluate(
        model,
        lambda rows, carry: one.loss(model, rows, carry),
        evaluator,
        data,
        comm,
        batch,
        batch_size,
        list,
    )
    return scores, evaluator.part()


# --- Samples and streams


def test_a_sample_is_a_sequence_and_its_successors():
    data = dataset(23, 5)
    assert len(data) == 4
    inputs, targets = data.batch(np.array([0, 3]))
    np.testing.assert_array_equal(inputs[0, 1:], targets[0, :-1])
    np.testing.assert_array_equal(inputs[1], data._tokens[15:20])
    np.testing.assert_array_equal(targets[1], data._tokens[16:21])


def test_streams_over_ranks_are_those_of_one_rank():
    """Nothing twice, nothing left out, and each place in the batch reads on where it was."""
    data, batch = dataset(1000), 6
    order = sampler.epoch_order(len(data), 0, 0, data.shuffle, batch)
    for size in (1, 2, 3):
        streams = [[] for _ in range(batch)]
        for step in range(len(data) // batch):
            shares = [sampler.share(order, step, batch, r, size) for r in range(size)]
            rows = torch.cat([data.batch(s.indices)[0] for s in shares])
            for stream, row in zip(streams, rows, strict=True):
                stream += row.tolist()
        long = len(data) // batch * T
        assert [t for s in streams for t in s] == data._tokens[: batch * long].tolist()


# --- Losses


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_is_the_cross_entropy_of_the_next_token(reduction):
    model, data = small(), dataset()
    batch = data.batch(np.arange(3))
    total, sums, carry = task(time_reduction=reduction).loss(model, batch, None)
    expected = F.cross_entropy(model(batch[0])[0].flatten(0, 1), batch[1].flatten(), reduction="sum")
    torch.testing.assert_close(total, expected / (T if reduction == "mean" else 1))
    assert sums.tolist() == pytest.approx([expected.item(), 3 * T, 3 * T])
    assert all(not part.requires_grad for part in carry)
    figures = task().summarise(sums.tolist())
    assert figures["loss"] == pytest.approx(expected.item() / (3 * T))
    assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
    assert figures["bits_per_character"] == pytest.approx(figures["loss"] / math.log(2))


def test_bits_per_character_only_where_characters_are_known():
    words = Words([f"w{i}" for i in range(V - 1)])
    _, sums, _ = task(vocabulary=words).loss(small(), dataset().batch(np.arange(2)), None)
    assert task(vocabulary=words).summarise(sums.tolist()).keys() == {"loss", "perplexity"}


def test_the_gradient_ends_where_the_sequence_begins_but_the_state_goes_on():
    model, data, one = small(), dataset(), task()
    _, _, carry = one.loss(model, data.batch(np.array([0])), None)
    warm, *_ = one.loss(model, data.batch(np.array([1])), carry)
    cold, *_ = one.loss(model, data.batch(np.array([1])), None)
    assert warm != cold
    whole = TextDataset(data._tokens, 2 * T, KNOWN)
    logits, _ = model(whole.batch(np.array([0]))[0])
    expected = F.cross_entropy(logits[0, T:], data.batch(np.array([1]))[1][0], reduction="sum")
    torch.testing.assert_close(warm * T, expected)


def test_masked_tokens_are_hidden_and_only_they_count():
    model, data = small("birnn", layers=1), dataset(2000, 20)
    one = task("masked_language_model", mask_fraction=0.25)
    batch = data.batch(np.arange(30))
    torch.manual_seed(1)
    total, sums, carry = one.loss(model, batch, None)
    torch.manual_seed(1)
    hidden = torch.rand(30, 20) < 0.25
    logits, _ = model(batch[0].masked_fill(hidden, 0))
    expected = F.cross_entropy(logits[hidden], batch[0][hidden], reduction="sum")
    torch.testing.assert_close(total, expected / 5)
    assert sums[1] == hidden.sum()
    assert carry is None
    model.eval()
    _, sums, _ = one.loss(model, batch, None)
    assert sums[1] == 30 * 5  # every fourth
    torch.testing.assert_close(one.loss(model, batch, None)[1], sums)


def test_a_network_that_sees_both_sides_fills_gaps_better():
    """Every second token repeats the one after it: only a look ahead tells it."""
    tokens = np.repeat(np.random.default_rng(0).integers(1, V, 4000), 2)[1:]
    data, scores = TextDataset(tokens, 20, KNOWN), {}
    for name in ("birnn", "rnn"):
        model, one = small(name, layers=1), task("masked_language_model")
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for step in range(60):
            total, *_ = one.loss(model, data.batch(np.arange(step % 6 * 50, step % 6 * 50 + 50)), None)
            optimizer.zero_grad()
            (total / 50).backward()
            optimizer.step()
        scores[name], _ = evaluated(model, one, data, Comm(), 50, 50)
    assert scores["birnn"]["loss"] < 0.8 * scores["rnn"]["loss"]


# --- State


def test_micro_batches_carry_as_the_whole_batch_does():
    model, data, one = small(layers=2).eval(), dataset(), task()
    order = sampler.stream_order(len(data), 5)
    at_once = in_parts = None
    for step in range(3):
        own = sampler.share(order, step, 5, 0, 1)
        total, _, at_once = one.loss(model, data.batch(own.indices), at_once)
        carried = Carried(in_parts)
        totals = []
        for place in own.micro_batches(2):
            part, _, after = one.loss(model, data.batch(own.indices[place]), carried.of(place))
            carried.keep(after)
            totals.append(part)
        in_parts = carried.whole()
        torch.testing.assert_close(sum(totals), total)
        for a, b in zip(in_parts, at_once, strict=True):
            torch.testing.assert_close(a, b)
    assert at_once[0].shape == (2, 5, 8)


@pytest.mark.parametrize("samples", [80, 77, 3])
def test_validation_does_not_depend_on_ranks_or_micro_batches(samples):
    model, data, one = small(), dataset(samples * T + 1), task()
    _, alone = evaluated(model, one, data, Comm(), 6, 6)
    assert alone[1] == samples * T
    for size, micro in ((2, 3), (3, 1), (1, 4)):
        ranks = [evaluated(model, one, data, Ranks(r, size), 6, micro)[1] for r in range(size)]
        assert [sum(s) for s in zip(*ranks, strict=True)] == pytest.approx(alone, rel=1e-5)
    assert model.training


def test_a_saved_state_divides_over_other_ranks():
    """What two ranks saved, three or one can take: the streams keep their state."""
    whole = tuple(torch.randn(2, 7, 8) for _ in range(2))
    saved = {
        f"carry/{rank}/{i}": part[:, sampler.part(7, rank, 2)]
        for rank in range(2)
        for i, part in enumerate(whole)
    }
    for size in (1, 2, 3):
        parts = [state.carry_of(saved, 2, Ranks(r, size), torch.device("cpu")) for r in range(size)]
        for i, expected in enumerate(whole):
            assert torch.equal(torch.cat([p[i] for p in parts], dim=1), expected)


# --- Generating


def test_generation_carries_the_state():
    """The likeliest continuation is what the whole text, read anew for each token, would give."""
    model = small(layers=2).eval()
    prompt = [3, 1, 4]
    found = list(continue_tokens(model, prompt, 8, temperature=0))
    text = list(prompt)
    for token in found:
        logits, _ = model(torch.tensor([text]))
        assert token == 1 + int(logits[0, -1, 1:].argmax())
        text.append(token)
    first, again, other = (list(continue_tokens(model, prompt, 30, seed=s)) for s in (1, 1, 2))
    assert first == again != other


class Own(torch.nn.Module):
    """A language model as people write it: the children differ in what they take and return."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.last = torch.nn.Embedding(V, 4), torch.nn.Linear(6, V)
        self.cells = torch.nn.GRU(4, 6, batch_first=True)

    def both(self, tokens, state=None):
        x, state = self.cells(self.embedding(tokens), state)
        return self.last(x), state


class Alone(Own):
    def forward(self, tokens):
        return self.both(tokens)[0]


class Named(Own):
    def forward(self, input_ids, attention_mask=None):
        assert attention_mask is None
        return {"logits": self.both(input_ids)[0]}


class WithState(Own):
    def forward(self, tokens, hidden=None):
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.both(tokens, hidden)


class StateUnasked(Own):
    def forward(self, tokens):
        return self.both(tokens)


@pytest.mark.parametrize("kind", [Alone, Named, WithState, StateUnasked])
def test_language_models_with_and_without_a_state(kind):
    model, job = kind(), task()
    tokens = torch.randint(V, (3, 2 * T), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        total, sums, carry = job.loss(model, (tokens[:, :T], tokens[:, 1 : T + 1]), None)
        _, second, _ = job.loss(model, (tokens[:, T : 2 * T - 1], tokens[:, T + 1 :]), carry)
        logits = model.both(tokens[:, :-1])[0]
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(3, -1)
    torch.testing.assert_close(sums[0], losses[:, :T].sum())
    assert total == pytest.approx(float(sums[0]) / T)
    whole = torch.allclose(second[0], losses[:, T:].sum(), rtol=1e-5)
    assert (carry is not None, whole) == ((True, True) if kind is WithState else (False, False))


def test_logits_of_a_language_model_have_their_shape():
    class LastAlone(Own):
        def forward(self, tokens):
            return self.both(tokens)[0][:, -1]

    with pytest.raises(UserError, match="3x12: its logits must be"):
        task().loss(LastAlone(), (torch.zeros(3, T, dtype=torch.int64),) * 2, None)
