"""Data that two users fetch into one folder, and a cache that they share."""

import hashlib
import os
import shutil

import pytest

from tests.people import ALICE, BOB, ROOT, TEAM

CONTENT = b"official" * 100
FETCH = (
    "import sys; from pathlib import Path; from hpctrain.data import fetch\n"
    "from hpctrain.data.downloads import RemoteFile, Source\n"
    f"file = RemoteFile('set.bin', {len(CONTENT)}, {hashlib.sha256(CONTENT).hexdigest()!r})\n"
    "fetch.PAUSE_S = 0\n"
    "fetch.fetch(Source('set', 'page', (f'file://{sys.argv[1]}/',), (file,)), Path(sys.argv[2]))"
)


@pytest.fixture
def home(place):
    """The official home of a data set, and the team's folder for it."""
    (place / "home").mkdir(mode=0o755)
    (place / "home" / "set.bin").write_bytes(CONTENT)
    (place / "data").mkdir()
    os.chown(place / "data", ROOT, TEAM)
    (place / "data").chmod(0o2775)
    return place / "home"


@pytest.mark.parametrize("name", [".fetch.lock", "set.bin.part", f"set.bin.{BOB}.part", "set.bin"])
@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_fetching_goes_through_no_link(alice, bob, home, name, kind):
    data, precious = home.parent / "data", bob.home / "precious"
    precious.write_text("bob's own")
    bob.give(precious)
    if kind == "link":
        (data / name).symlink_to(precious)
        os.chown(data / name, ALICE, ALICE, follow_symlinks=False)
    else:
        os.link(precious, data / name)
    process = bob.start("-c", FETCH, home, data)
    process.communicate(timeout=60)
    assert precious.read_text() == "bob's own"
    if name != ".fetch.lock":
        assert (data / "set.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_two_users_fetch_into_one_folder(alice, bob, home, umask):
    data = home.parent / "data"
    alice.python("-c", FETCH, home, data, umask=umask)
    (data / f"set.bin.{ALICE}.part").write_bytes(b"broken off")
    os.chown(data / f"set.bin.{ALICE}.part", ALICE, ALICE)
    bob.python("-c", FETCH, home, data)
    bob.python("-c", f"assert open({str(data / 'set.bin')!r}, 'rb').read() == {CONTENT!r}")


def test_two_users_fetch_at_once(alice, bob, home):
    data = home.parent / "data"
    both = [person.start("-c", FETCH, home, data) for person in (alice, bob)]
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (data / "set.bin").read_bytes() == CONTENT


CACHES = {
    "tokens": "from hpctrain.data.text import tokens; tokens.load(config.data).train[0]",
    "contents": "from hpctrain.data import contents; contents.of_data(config.data)",
    "speech": (
        "from hpctrain.data.speech import source; folder = source.spoken(config.data)\n"
        "assert [path.read_bytes() for path in folder.rglob('*') if path.is_file()]"
    ),
    "flops": "from hpctrain.flops import known; known.counted('lenet', config.model.settings, 7)",
}
WORDS = {
    "tokens": ["model=lstm", "task=language_model", "data=text", "data.tokens=character"],
    "contents": ["model=lstm", "task=language_model", "data=text", "data.tokens=character"],
    "speech": ["deep_speech_digits", "data.train_limit=2", "data.validation_limit=1"],
    "flops": ["lenet_digits"],
}
USE = "import sys; from hpctrain.data.derive import load; config = load(sys.argv[1:])\n"


def uses(person, cache, kind, text):
    words = [*WORDS[kind], *([f"data.path={text}"] if kind in ("tokens", "contents") else [])]
    script = (
        f"import os; os.environ |= {{'HPCTRAIN_CACHE': {str(cache)!r}, 'XDG_CACHE_HOME': {str(cache)!r}}}\n"
    )
    person.python("-c", f"{script}{USE}{CACHES[kind]}", *words, umask=0o022)


@pytest.fixture
def cache(place):
    """A cache of the team, and a text."""
    (place / "cache").mkdir()
    os.chown(place / "cache", ROOT, TEAM)
    (place / "cache").chmod(0o2775)
    (place / "text.txt").write_text("some words of a text\n" * 200)
    return place / "cache"


@pytest.mark.parametrize("kind", CACHES)
def test_two_users_share_a_cache(alice, bob, cache, kind):
    if kind == "speech" and shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng")
    for person in (alice, bob, alice):
        uses(person, cache, kind, cache.parent / "text.txt")


@pytest.mark.parametrize("kind", CACHES)
def test_a_cache_is_written_through_no_link(alice, bob, cache, kind):
    """Every file that bob's first use makes is there already, as alice's link to a file of his."""
    if kind == "speech" and shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng")
    text, precious = cache.parent / "text.txt", bob.home / "precious"
    precious.write_text("bob's own")
    bob.give(precious)
    uses(bob, cache, kind, text)
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert files
    for path in (*cache.rglob("*"), cache):
        os.chown(path, ALICE, TEAM)
        path.chmod(0o2775 if path.is_dir() else 0o664)
    for path in files:
        path.unlink()
        path.symlink_to(precious)
        os.chown(path, ALICE, ALICE, follow_symlinks=False)
    script = f"{text}"
    words = [*WORDS[kind], *([f"data.path={script}"] if kind in ("tokens", "contents") else [])]
    before = (
        f"import os; os.environ |= {{'HPCTRAIN_CACHE': {str(cache)!r}, 'XDG_CACHE_HOME': {str(cache)!r}}}\n"
    )
    bob.start("-c", f"{before}{USE}{CACHES[kind]}", *words).communicate(timeout=120)
    assert precious.read_text() == "bob's own"
