"""The ledger of samples, and what a checkpoint says of the place of a run."""

import json
import random

import numpy as np
import pytest

from hpctrain.config.identity import identity_hash, science
from hpctrain.data.derive import load
from hpctrain.data.sampler import epoch_order
from hpctrain.errors import RunFailed
from hpctrain.training import progress
from hpctrain.training.progress import Ledger, Progress, Window, continued, document, fingerprint


def splitmix64(seed):
    """One value of the generator of Steele, Lea and Flood 2014, in Python's own integers."""
    mask = 2**64 - 1
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


def of(*numbers):
    return np.array(numbers, np.int64)


def test_the_hash_is_splitmix64():
    # The first values of the reference generator from seed 0 are its published test vector.
    assert fingerprint(of(0)) == 0xE220A8397B1DCDAF
    assert fingerprint(of(1)) == 0x6E789E6AA1B965F4
    golden = 0x9E3779B97F4A7C15
    numbers = [7, 123_456, 2**40]
    assert fingerprint(of(*numbers)) == sum(splitmix64(n * golden % 2**64) for n in numbers) % 2**64


def test_order_does_not_matter_and_each_sample_does():
    assert fingerprint(of(3, 1, 2)) == fingerprint(of(1, 2, 3))
    assert fingerprint(of(1, 2, 3)) != fingerprint(of(1, 2, 4))
    assert fingerprint(of(1, 1)) != fingerprint(of(1))
    assert fingerprint(of()) == 0


@pytest.mark.parametrize("steps", [1, progress.HASHED_STEPS - 1, progress.HASHED_STEPS, 150])
def test_a_ledger_counts_what_was_taken(steps):
    ledger, order = Ledger(), np.random.default_rng(0).permutation(3 * steps)
    for batch in np.split(order, steps):
        ledger.take(batch)
    assert ledger.share == (3 * steps, fingerprint(np.arange(3 * steps)))
    assert ledger.share == (3 * steps, fingerprint(np.arange(3 * steps)))  # asked again it is the same


def test_samples_wait_to_be_hashed_together():
    ledger = Ledger()
    for number in range(progress.HASHED_STEPS - 1):
        ledger.take(of(number))
    assert ledger.taken == 0
    ledger.take(of(0))
    assert ledger.taken == progress.HASHED_STEPS
    ledger.take(of(0))
    assert ledger.taken == progress.HASHED_STEPS


def test_ranks_together_take_the_epoch():
    ranks = [Ledger(2, epochs=[(9, 9)]) for _ in range(2)]
    ranks[0].take(of(4, 0))
    ranks[1].take(of(1, 3, 2))
    shares = [rank.share for rank in ranks]
    total = ranks[0].total(shares)
    assert (total.epoch, total.share, total.epochs) == (2, (5, fingerprint(np.arange(5))), [(9, 9)])
    for rank in ranks:
        rank.close(shares, np.arange(5))
        assert (rank.epoch, rank.share) == (3, (0, 0))
        assert rank.epochs == [(9, 9), (5, fingerprint(np.arange(5)))]


def test_a_sum_of_ranks_is_taken_modulo_two_to_the_64():
    assert Ledger().total([(1, 2**64 - 1), (1, 3)]).share == (2, 2)
    ledger = Ledger(fingerprint=2**64 - 1)
    ledger.take(of(0))
    assert ledger.share == (1, (fingerprint(of(0)) - 1) % 2**64)


@pytest.mark.parametrize("taken", [[0, 1, 1], [0, 1], [0, 1, 2, 2], [0, 1, 3]])
def test_an_epoch_that_took_a_sample_twice_or_never_is_an_error(taken):
    ledger = Ledger(4)
    ledger.take(of(*taken))
    with pytest.raises(RunFailed, match="epoch 4 did not take each of 3 samples once") as caught:
        ledger.close([ledger.share], np.arange(3))
    assert caught.value.reason == "DATA_ERROR"


CONFIG = load(["lenet_digits", "train.batch_size=16", "seed=5"])
AT = Progress(23, 360, 4.5, [2.0, 1.5], 20, 1, [(3, 5)], Window(3, 48, 2, 0.5, [1.0, 2.0], {"data": 0.25}))


def order_of(epoch):
    return epoch_order(100, 5, epoch, shuffle=True)


def ledger_at(epoch, taken):
    ledger = Ledger(epoch, epochs=[(100, fingerprint(np.arange(100)))] * epoch)
    ledger.take(order_of(epoch)[:taken])
    return Ledger(epoch, *ledger.share, ledger.epochs)


def meta(ledger):
    return json.loads(json.dumps(document(AT, ledger, CONFIG, 7, 0.125)))


def test_a_document_says_where_the_run_is():
    ledger = ledger_at(3, 32)
    found = meta(ledger)
    assert (found["step"], found["epoch"], found["samples"]) == (23, 23 / 7, 360)
    assert found["sampler"] == {
        "epoch": 3, "place": 2, "steps_per_epoch": 7, "effective_batch": CONFIG.effective_batch, "seed": 5,
    }  # fmt: skip
    assert found["schedule"] == {"lr": 0.125}
    assert (found["ledger"]["taken"], found["ledger"]["fingerprint"]) == ledger.share
    assert found["progress"]["validation_losses"] == [2.0, 1.5]
    assert found["config_hash"] == identity_hash(CONFIG, {})
    assert found["config"] == json.loads(json.dumps(science(CONFIG)))


def test_a_run_goes_on_where_its_document_says():
    ledger = ledger_at(3, 32)
    assert continued(meta(ledger), CONFIG, order_of) == (AT, ledger)


def test_samples_that_are_not_this_orders_first_are_refused():
    wrong = Ledger(3, 32, fingerprint(order_of(2)[:32]), [])
    for ledger in (wrong, Ledger(3, 101, ledger_at(3, 100).fingerprint, [])):
        with pytest.raises(RunFailed) as caught:
            continued(meta(ledger), CONFIG, order_of)
        assert str(caught.value) == (
            f"DATA_ERROR: the {ledger.taken} samples that the checkpoint took of epoch 3 are not the first of this"
            " run's order: the data, or NumPy's permutation, has changed"
        )


def changed(*words):
    return load(["lenet_digits", "train.batch_size=16", "seed=5", *words])


def test_a_changed_setting_is_refused_by_name_unless_it_is_allowed():
    ledger = ledger_at(3, 32)
    lr = CONFIG.optimizer.lr
    with pytest.raises(
        RunFailed, match=rf"optimizer\.lr .*0\.5.* {lr};.*checkpoint\.allow_change=true"
    ) as caught:
        continued(meta(ledger), changed("optimizer.lr=0.5"), order_of)
    assert caught.value.reason == "CONFIG_CHANGED"
    allowed = changed("optimizer.lr=0.5", "checkpoint.allow_change=true")
    assert continued(meta(ledger), allowed, order_of) == (AT, ledger)


@pytest.mark.parametrize(
    ("words", "named"),
    [(["seed=6"], "seed"), (["optimizer.lr=0.5", "data.train_limit=50"], r"data\.train_limit")],
)
def test_a_setting_that_says_which_samples_come_is_always_refused(words, named):
    with pytest.raises(RunFailed, match=rf"^CONFIG_CHANGED: {named} .*twice or never"):
        continued(meta(ledger_at(3, 32)), changed(*words, "checkpoint.allow_change=true"), order_of)


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("progress", None, "progress"),
        ("ledger", {"epoch": -1}, r"ledger\.epoch"),
        ("schedule", {"lr": "fast"}, r"schedule\.lr"),
    ],
)
def test_a_document_that_is_none_is_named_by_its_key(key, value, where):
    damaged = meta(ledger_at(0, 16)) | {key: value}
    with pytest.raises(RunFailed, match=rf"^NO_VALID_CHECKPOINT: meta\.json: {where}: \w"):
        continued(damaged, CONFIG, order_of)


def test_any_split_over_ranks_and_steps_has_the_same_fingerprint():
    draw = random.Random(0)
    for _ in range(20):
        order = np.random.default_rng(draw.randrange(99)).permutation(60)
        cuts = sorted(draw.sample(range(1, 60), 5))
        shares = []
        for part in np.split(order, cuts):
            ledger = Ledger()
            ledger.take(part)
            shares.append(ledger.share)
        assert Ledger().total(shares).share == (60, fingerprint(np.arange(60)))
