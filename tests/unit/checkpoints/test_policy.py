"""Which checkpoints stay, on real folders without tensors; how often to save, against Young's formula."""

import pytest

from hpctrain.checkpoints import store
from hpctrain.checkpoints.policy import Retention, young_daly_s
from hpctrain.checkpoints.store import Entry
from hpctrain.config.settings import CheckpointConfig
from hpctrain.storage import lock
from hpctrain.storage.files import Files


@pytest.fixture
def term(tmp_path):
    tmp_path.chmod(0o700)
    return lock.acquire(tmp_path / "checkpoints", 1)


def commit(term, step, metric=None, save=1):
    draft = term.folder / ".draft.test"
    draft.mkdir()
    meta = {"step": step, "epoch": 1.0, "samples": 8, "world_size": 1, "attempt": 1, "metric": metric}
    entry = Entry(step, term.number, save)
    store.publish(draft, entry, {}, meta, term)
    return entry


def damage(term, entry):
    (term.folder / entry.name / "meta.json").write_text("{}")


def kept(term):
    return store.entries(term.folder)


def retention(term, **settings):
    return Retention(term.folder, CheckpointConfig(**({"keep_best": False} | settings)), term.files)


def test_the_last_stay(term):
    saved = [commit(term, step) for step in range(1, 6)]
    policy = retention(term, keep_last=2)
    assert policy.prune() == saved[:3]
    assert kept(term) == saved[3:]
    assert policy.prune() == []


def test_of_one_step_the_newest_stays(term):
    four, *five = commit(term, 4), commit(term, 5), commit(term, 5, save=2)
    assert retention(term, keep_last=2).prune() == five[:1]
    assert kept(term) == [four, five[1]]


def test_every_nth_step_stays_and_of_it_the_newest(term):
    saved = [commit(term, step) for step in range(1, 8)]
    again = commit(term, 2, save=2)
    assert retention(term, keep_last=1, keep_every=2).prune() == [saved[n] for n in (0, 1, 2, 4)]
    assert kept(term) == [again, saved[3], saved[5], saved[6]]


def test_the_best_stays(term):
    saved = [commit(term, step, metric) for step, metric in enumerate([0.5, 0.1, None, 0.3, 0.2], 1)]
    retention(term, keep_last=1, keep_best=True).prune()
    assert kept(term) == [saved[1], saved[4]]


def test_without_metrics_nothing_is_best(term):
    saved = [commit(term, step) for step in (1, 2)]
    retention(term, keep_last=1, keep_best=True).prune()
    assert kept(term) == saved[1:]


def test_a_best_that_is_broken_leaves_its_place_to_the_next(term):
    saved = [commit(term, step, metric) for step, metric in enumerate([0.2, 0.1, 0.3, 0.4], 1)]
    manifest = term.folder / saved[1].name / "manifest.json"
    (term.folder / saved[1].name / "extra").write_text("")
    policy = retention(term, keep_last=1, keep_best=True)
    policy.prune()
    assert kept(term) == [saved[0], saved[3]]
    assert not manifest.exists()


def test_a_broken_one_does_not_count_and_is_put_aside(term, capsys):
    saved = [commit(term, step) for step in (1, 2, 3)]
    damage(term, saved[2])
    assert retention(term, keep_last=1).prune() == saved[:1]
    assert kept(term) == saved[1:2]
    assert len(list(term.folder.glob(f"broken.{saved[2].name}.*"))) == 1
    assert capsys.readouterr().out.startswith(f"checkpoint {saved[2].name}/meta.json")


def test_while_none_is_good_nothing_is_deleted(term):
    saved = [commit(term, step) for step in (1, 2, 3)]
    for entry in saved:
        damage(term, entry)
    assert retention(term, keep_last=1).prune() == []
    assert len(list(term.folder.glob("broken.*"))) == 3


def test_what_the_storage_cannot_read_now_stays_if_it_is_newer(term, monkeypatch, capsys):
    saved = [commit(term, step) for step in (1, 2, 3, 4)]
    verify = store.verify

    def sometimes(folder, entry):
        if entry in (saved[1], saved[3]):
            raise store.Unreadable(f"{entry.name} cannot be read")
        return verify(folder, entry)

    monkeypatch.setattr(store, "verify", sometimes)
    # 3 is the newest that verifies: 4 may be good tomorrow. 2 is older, and not needed.
    assert retention(term, keep_last=1).prune() == saved[:2]
    assert kept(term) == saved[2:]
    assert not list(term.folder.glob("broken.*"))
    assert capsys.readouterr().out == f"checkpoint {saved[3].name} cannot be read\n"


def test_each_checkpoint_is_read_back_once(term, monkeypatch):
    read, verify = [], store.verify
    monkeypatch.setattr(store, "verify", lambda folder, entry: (read.append(entry), verify(folder, entry))[1])
    policy = retention(term, keep_last=2, keep_best=True)
    for step in (1, 2, 3, 4):
        commit(term, step, metric=float(step))
        policy.prune()
    assert sorted(read) == [Entry(step, 1, 1) for step in (1, 2, 3, 4)]
    assert kept(term) == [Entry(step, 1, 1) for step in (1, 3, 4)]


def test_a_deletion_goes_through_the_files_it_was_given(term):
    class Full(Files):
        def rename(self, old, new):
            raise OSError(28, "no space")

    saved = [commit(term, step) for step in (1, 2)]
    policy = Retention(term.folder, CheckpointConfig(keep_last=1, keep_best=False), Full())
    with pytest.raises(OSError, match="no space"):
        policy.prune()
    damage(term, saved[1])
    with pytest.raises(OSError, match="no space"):
        Retention(term.folder, CheckpointConfig(keep_last=1), Full()).prune()
    assert kept(term) == saved


def test_youngs_example():
    # Young 1974: the square root of twice the cost times the mean time between failures.
    assert young_daly_s(2.0, 10_000.0) == 200
    assert young_daly_s(50.0, 1e6) == 10_000


def test_saving_stays_below_a_tenth_of_the_time():
    assert young_daly_s(60.0, 600.0) == 600
    assert young_daly_s(1.0, 50.0) == 10


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.25])
def test_no_other_interval_loses_less(factor):
    """To first order, an interval t loses save/t for saving and t/(2 mtbf) for work that is done again."""
    save_s, mtbf_s = 3.0, 86_400.0

    def lost(t):
        return save_s / t + t / 2 / mtbf_s

    assert lost(young_daly_s(save_s, mtbf_s)) < lost(factor * young_daly_s(save_s, mtbf_s))


def test_nothing_is_deleted_while_the_storage_can_read_none(term, monkeypatch):
    saved = [commit(term, step) for step in (1, 2)]

    def silent(folder, entry):
        raise store.Unreadable(f"{entry.name} cannot be read")

    monkeypatch.setattr(store, "verify", silent)
    assert retention(term, keep_last=1).prune() == []
    assert kept(term) == saved
