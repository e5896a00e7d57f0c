"""Which token is drawn, and what the network is asked for the next one."""

import pytest
import torch
from torch import nn

from hpctrain.models.sampling import choose, continue_tokens

CERTAIN = 1e9


class Counting(nn.Module):
    """After token n it is sure of n + 1, or of n + 2 once its state says that it has counted for `calls` calls."""

    def __init__(self, tokens=12, calls=99):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.tokens, self.calls, self.asked = tokens, calls, []

    def forward(self, tokens, carry):
        self.asked.append((tokens.tolist(), carry, self.training, torch.is_inference_mode_enabled()))
        calls = (carry or 0) + 1
        following = (tokens + (1 if calls <= self.calls else 2)) % self.tokens
        return CERTAIN * nn.functional.one_hot(following, self.tokens), calls


class Even(nn.Module):
    """All tokens are equally likely, or each is e^`slope` times as likely as the one before."""

    def __init__(self, dtype=torch.float32, slope=0.0):
        super().__init__()
        self.weight = nn.Parameter(slope * torch.arange(9, dtype=dtype))

    def forward(self, tokens, carry):
        return self.weight.expand(*tokens.shape, 9), None


def test_each_token_follows_the_one_before():
    assert list(continue_tokens(Counting(), [5, 3], 4)) == [4, 5, 6, 7]
    assert list(continue_tokens(Counting(), (5,), 0)) == []


def test_the_state_is_carried_on():
    assert list(continue_tokens(Counting(calls=2), [3], 4)) == [4, 5, 7, 9]


def test_the_network_sees_the_prompt_then_token_by_token_and_is_not_trained():
    model = Counting()
    list(continue_tokens(model, [5, 3], 3))
    assert model.asked == [
        ([[5, 3]], None, False, True),
        ([[4]], 1, False, True),
        ([[5]], 2, False, True),
    ]


def test_a_token_is_drawn_when_it_is_asked_for():
    model = Counting()
    tokens = continue_tokens(model, [3], 1000)
    assert [next(tokens), next(tokens)] == [4, 5]
    assert len(model.asked) == 2
    assert not torch.is_inference_mode_enabled()  # between two tokens the caller may train


def test_equal_seeds_draw_equal_text_and_leave_other_random_numbers_alone():
    before = torch.get_rng_state()
    first, again, other = (list(continue_tokens(Even(), [1], 30, seed=seed)) for seed in (3, 3, 4))
    assert first == again != other
    assert set(first) == set(range(1, 9))
    assert torch.equal(torch.get_rng_state(), before)


def test_by_default_all_tokens_take_part_as_likely_as_they_are_from_seed_0():
    plain = list(continue_tokens(Even(slope=0.5), [1], 30))
    assert plain == list(continue_tokens(Even(slope=0.5), [1], 30, temperature=1.0, top_k=None, seed=0))


def test_temperature_and_top_k_are_those_of_the_caller():
    assert set(continue_tokens(Even(), [1], 30, temperature=0)) == {1}
    assert len(set(continue_tokens(Even(), [1], 30, top_k=2))) == 2


def test_half_precision_is_drawn_from_too():
    assert set(continue_tokens(Even(torch.bfloat16), [1], 60)) == set(range(1, 9))


def shares(chances, temperature=1.0, top_k=None, draws=4000):
    """Returns how often each token was drawn, if the network's chances are in proportion to `chances`."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([CERTAIN, *torch.tensor(chances).log().tolist()])
    drawn = [choose(logits, temperature, top_k, generator) for _ in range(draws)]
    return [drawn.count(token) / draws for token in range(len(logits))]


@pytest.mark.parametrize(
    ("temperature", "top_k", "expected"),
    [
        (1.0, None, [0, 0.6, 0.1, 0.3]),
        (0.5, None, [0, 36 / 46, 1 / 46, 9 / 46]),  # chances are squared
        (1.0, 2, [0, 2 / 3, 0, 1 / 3]),
        (0.5, 2, [0, 0.8, 0, 0.2]),
        (1.0, 1, [0, 1, 0, 0]),
        (1.0, 3, [0, 0.6, 0.1, 0.3]),
        (1.0, 50, [0, 0.6, 0.1, 0.3]),  # there are not as many
        (0, None, [0, 1, 0, 0]),
        (0.0, 2, [0, 1, 0, 0]),
    ],
)
def test_tokens_are_drawn_by_their_chances_and_never_the_unknown(temperature, top_k, expected):
    assert shares([6.0, 1.0, 3.0], temperature, top_k) == pytest.approx(expected, abs=0.025)


def test_without_temperature_the_likeliest_is_taken_wherever_it_stands():
    draw = torch.Generator()
    assert [choose(torch.eye(4)[place] * 5, 0, None, draw) for place in (1, 2, 3)] == [1, 2, 3]
