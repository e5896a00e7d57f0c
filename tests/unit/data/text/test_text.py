"""Text data: how it is read, divided, cut into tokens, kept, and laid out as streams."""

import http.server
import json
import os
import random
import string
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.config.settings import DataConfig
from hpctrain.data import hub
from hpctrain.data.text import check, tokens, vocabulary
from hpctrain.data.text import source as text_source
from hpctrain.data.text.vocabulary import Characters, Pieces, Words
from hpctrain.errors import RunFailed, UserError

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HPCTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def config(file=None, **changes):
    defaults = {"name": "text", "path": file and str(file), "vocabulary_size": 15, "sequence_length": 4}
    return DataConfig(**defaults | changes)


def english(count, seed=0):
    words = [f"{a}{b}" for a in ("be", "ca", "do", "fé", "gu") for b in ("", "n", "rt", "st", "ll")]
    draw = random.Random(seed)
    return "".join(draw.choice(words) + draw.choice("   \n") for _ in range(count))


# --- Vocabularies


@given(blocks=st.lists(TEXTS, min_size=1, max_size=5))
def test_characters_come_back_and_blocks_do_not_matter(blocks):
    text = "".join(blocks)
    known = Characters.learn([text], len(set(text)) + 1) if text else Characters(["a"])
    numbers = np.concatenate([*known.encode(blocks), np.zeros(0, np.int64)])
    assert b"".join(map(known.piece, numbers)).decode() == text
    np.testing.assert_array_equal(numbers, np.concatenate([*known.encode([text]), np.zeros(0, np.int64)]))


@given(blocks=st.lists(st.text("ab \n", max_size=9), min_size=1, max_size=6))
def test_words_do_not_depend_on_where_blocks_end(blocks):
    whole = Words.count(["".join(blocks)])
    assert Words.count(blocks) == whole
    known = Words(sorted(whole))
    cut, at_once = ([n for a in known.encode(b) for n in a] for b in (blocks, ["".join(blocks)]))
    assert cut == at_once
    expected = "".join(blocks).replace("\n", " \n ").split(" ")
    assert [known.piece(n).decode().strip(" ") for n in cut] == [w for w in expected if w]


def test_pieces_come_back_whatever_the_text():
    text = english(3000) + "naïve 🐍 snakes\n"
    known = Pieces.learn([text], 300)
    numbers = [int(n) for a in known.encode([text[:1000], text[1000:]]) for n in a]
    assert known.size == 300
    assert b"".join(map(known.piece, numbers)).decode() == text
    assert len(numbers) < 0.6 * len(text.encode())
    assert known.lengths()[numbers].sum() == len(text)
    again = vocabulary.from_json(json.loads(json.dumps(known.to_json())))
    assert [int(n) for a in again.encode([text]) for n in a][:50] == numbers[:50]
    assert again.unknown("日本") == []


def test_the_most_frequent_are_kept_and_the_rest_are_unknown():
    known = Characters.learn(["aaabbc"], 3)
    assert [n.tolist() for n in known.encode(["abcz"])] == [[1, 2, 0, 0]]
    assert known.unknown("abcz") == ["c", "z"]
    words = Words.learn(["the cat the dog the cat\n<unk> fox"], 4)
    assert words.to_json()["tokens"] == ["the", "cat", "<eos>"]
    assert [n.tolist() for n in words.encode(["cat fox <unk>\n"])] == [[2, 0, 0, 3]]
    assert words.unknown("the <unk> fox\n") == ["fox"]


@pytest.mark.parametrize("kind", [Characters, Words])
def test_equal_counts_have_one_order(kind):
    text = " ".join("zyxwv")
    assert kind.learn([text], 5).to_json() == kind.learn([text[::-1]], 5).to_json()


def test_a_text_with_too_few_pieces():
    with pytest.raises(UserError, match="the text has no more pieces"):
        Pieces.learn(["ab\n"], 500)
    with pytest.raises(UserError, match="≥ 257"):
        Pieces.learn(["ab\n"], 200)


# --- Sources


def test_a_file_divides_at_a_line_and_nothing_is_lost(tmp_path):
    text = english(5000)
    source = text_source.find_source(config(write(tmp_path, "a.txt", text)))
    train, validation = "".join(source.train()), "".join(source.validation())
    assert (train + validation).rstrip("\n") == text.rstrip("\n")
    assert train.endswith("\n")
    assert 0.04 < len(validation) / len(text) < 0.06


def test_a_text_without_lines_divides_between_characters(tmp_path):
    text = "é" * 999
    source = text_source.find_source(config(write(tmp_path, "a.txt", text)))
    train, validation = "".join(source.train()), "".join(source.validation())
    assert train.strip() + validation.strip() == text
    assert len(validation.strip()) in range(48, 52)


def test_a_folder_is_one_text_in_an_order_of_its_own(tmp_path):
    for i in range(40):
        write(tmp_path / "t", f"{i // 10}/{i:02}.py", f"file{i:02}\n" * 20)
    write(tmp_path / "t", ".git/x", b"\xff")
    source = text_source.find_source(config(tmp_path / "t"))
    train, validation = ("".join(part()).split() for part in (source.train, source.validation))
    assert sorted(set(train + validation)) == [f"file{i:02}" for i in range(40)]
    assert len(train) + len(validation) == 800
    assert set(validation) != {"file38", "file39"}


def test_named_splits_are_taken(tmp_path):
    for split in ("train", "valid", "test"):
        write(tmp_path / "ptb", f"ptb.{split}.txt", f"{split}\n")
    source = text_source.find_source(config(tmp_path / "ptb"))
    assert ["".join(part()) for part in (source.train, source.validation)] == ["train\n", "valid\n"]


@pytest.mark.parametrize(
    ("names", "train", "validation", "said"),
    [
        (["train.txt", "val.txt", "test.txt"], ["train.txt"], ["val.txt"], "left out: test.txt"),
        (["train.txt", "dev.txt", "notes.md"], ["train.txt"], ["dev.txt"], "left out: notes.md"),
        (["train/a", "training/b", "dev/c", "test/d"], ["train/a", "training/b"], ["dev/c"], "left out: test/d"),
        (["training.en", "testing.en"], ["training.en"], ["training.en"], "training.en, of which the last 0.05"),
        (["train.txt", "notes.txt"], ["train.txt", "notes.txt"], ["train.txt", "notes.txt"], "of which the last"),
        (["latest.txt", "contest.txt", "a/training.txt"], None, None, "of which the last"),
        (["val.txt", "b.txt"], None, None, "of which the last"),
    ],
)  # fmt: skip
def test_what_the_names_say_is_said(tmp_path, names, train, validation, said):
    for name in names:
        write(tmp_path / "t", name, f"{name}\n" * 40)
    source = text_source.find_source(config(tmp_path / "t"))
    used = [set("".join(part()).split()) for part in (source.train, source.validation)]
    if train:
        assert used[0] <= set(train)
        assert used[1] <= set(validation)
    assert said in source.found
    assert used[0] | used[1] <= set(names)
    if "left out" not in source.found and "testing.en" not in names:
        assert used[0] | used[1] == set(names)


@pytest.mark.parametrize(
    ("content", "seems"),
    [("grün\n".encode("latin-1"), "Latin-1 or Windows-1252"), ("grün\n".encode("utf-16"), "UTF-16: iconv"),
     ("grün\n".encode("utf-16-le"), "UTF-16 without its mark")],
)  # fmt: skip
def test_another_encoding_is_guessed(tmp_path, content, seems):
    path = write(tmp_path, "a.txt", content * 100)
    with pytest.raises(UserError, match=rf"a.txt: is not UTF-8 text.*seems to be {seems}"):
        tokens.load(config(path, vocabulary_size=5))


def test_blocks_cut_no_character(tmp_path, monkeypatch):
    monkeypatch.setattr(text_source, "BLOCK_BYTES", 5)
    text = "aé日🐍" * 20 + "\n"
    path = write(tmp_path, "a.txt", "\ufeff" + text)
    assert "".join(text_source.read([text_source.Span(path, 0, path.stat().st_size)])) == text


@pytest.mark.parametrize("offset", [0, 7, 4097, 9999])
def test_what_is_no_utf8_is_named_with_its_offset(tmp_path, monkeypatch, offset):
    monkeypatch.setattr(text_source, "BLOCK_BYTES", 1000)
    text = bytearray(b"0123456\xc3\xa9\n" * 1000)
    text[offset] = 0xFF
    path = write(tmp_path, "a.txt", bytes(text))
    with pytest.raises(
        UserError, match=rf"a.txt: is not UTF-8 text: byte 0xff at offset {offset}; it seems to be"
    ):
        tokens.load(config(path, vocabulary_size=5))


def test_a_file_that_ends_within_a_character(tmp_path):
    path = write(tmp_path, "a.txt", b"abc\n" * 100 + b"\xe6\x97")
    with pytest.raises(UserError, match="offset 400"):
        tokens.load(config(path, vocabulary_size=3))


def test_the_standard_library_is_there():
    data = DataConfig("python_stdlib", vocabulary_size=100, sequence_length=100)
    source = text_source.find_source(data)
    assert source.size_bytes > 5e6
    assert not any("/test/" in name for name, *_ in source.identity[1])


# --- The token files


def test_tokens_are_made_once_and_mapped(tmp_path, cache, monkeypatch):
    data = config(write(tmp_path, "a.txt", english(2000)))
    first = tokens.load(data)
    assert isinstance(first.train, np.memmap)
    assert first.train.dtype == np.uint16
    monkeypatch.setattr(tokens, "_tokenise", lambda *_: pytest.fail("made again"))
    second = tokens.load(data)
    np.testing.assert_array_equal(first.train, second.train)
    assert tokens.counts(data) == {"train": len(first.train), "validation": len(first.validation)}
    assert [p.name for p in cache.iterdir() if p.is_dir()] == [next(cache.glob("text-*")).name]


@pytest.mark.parametrize("change", [{"tokens": "word"}, {"vocabulary_size": 9}, {"validation_fraction": 0.2}])
def test_other_settings_are_other_tokens(tmp_path, cache, change):
    path = write(tmp_path, "a.txt", english(2000))
    tokens.load(config(path))
    tokens.load(config(path, **change))
    assert len(list(cache.glob("text-*"))) == 2


def test_a_changed_text_and_a_damaged_file_are_noticed(tmp_path, cache):
    path = write(tmp_path, "a.txt", english(2000))
    before = np.array(tokens.load(config(path)).train)
    damaged = next(cache.glob("text-*/train.bin"))
    damaged.write_bytes(damaged.read_bytes()[:-2])
    np.testing.assert_array_equal(tokens.load(config(path)).train, before)
    path.write_text(english(2000, seed=1))
    after = tokens.load(config(path)).train
    assert len(after) != len(before) or (after != before).any()


def test_a_text_replaced_with_its_size_and_time_kept_is_another(tmp_path):
    path = write(tmp_path, "a.txt", "ab\n" * 500)
    before = tokens.load(config(path, vocabulary_size=4)).train
    stat = path.stat()
    path.write_text("ba\n" * 500)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not np.array_equal(before, tokens.load(config(path, vocabulary_size=4)).train)


def test_a_crash_leaves_nothing_that_the_next_one_takes(tmp_path, cache, monkeypatch):
    data = config(write(tmp_path, "a.txt", english(2000)))
    real = tokens._tokenise

    def fail(config, source, draft):
        real(config, source, draft)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokens, "_tokenise", fail)
    with pytest.raises(RunFailed, match="DISK_FULL"):
        tokens.load(data)
    digest = tokens._digest(data, text_source.find_source(data))
    (cache / f".new.{digest}.killed").mkdir()
    monkeypatch.undo()
    monkeypatch.setenv("HPCTRAIN_CACHE", str(cache.parent))
    assert len(tokens.load(data).train)
    assert not [p for p in cache.iterdir() if p.name.startswith(".new")]


LOAD = """
import re, sys
from pathlib import Path
from hpctrain.config.settings import DataConfig
from hpctrain.data.text import tokens
peak_kib = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
path, kind = sys.argv[1:]
before = peak_kib()
found = tokens.load(DataConfig("text", path, tokens=kind, vocabulary_size=15, sequence_length=4))
print(found.train.sum(), peak_kib() - before)
"""


def start(path, kind="character"):
    command = [sys.executable, "-c", LOAD, str(path), kind]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_many_processes_at_once_agree(tmp_path, cache):
    path = write(tmp_path, "a.txt", english(20_000))
    processes = [start(path) for _ in range(3)]
    assert len({process.communicate(timeout=60)[0].split()[0] for process in processes}) == 1
    assert len(list(cache.glob("text-*"))) == 1


@pytest.mark.parametrize("kind", ["character", "word"])
def test_memory_does_not_grow_with_the_text(tmp_path, kind):
    """A text of over 15 MB in less than 60 MB beside the interpreter."""
    path = write(tmp_path, "a.txt", english(30_000) * 125)
    assert path.stat().st_size > 15e6
    out, _ = start(path, kind).communicate(timeout=120)
    assert 0 < int(out.split()[1]) < 60 * 1024


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("HPCTRAIN_CACHE", "/proc/nothing")
    with pytest.raises(UserError, match="HPCTRAIN_CACHE=/proc/nothing"):
        tokens.load(config(write(tmp_path, "a.txt", english(200))))


# --- Sizes, and bad input


def test_the_text_gives_the_size_of_its_vocabulary(tmp_path):
    path = write(tmp_path, "a.txt", "abc abd\n" * 500)
    assert tokens.vocabulary_size(config(path, vocabulary_size=None)) == 1 + len("abcd \n")
    assert tokens.vocabulary_size(config(path, vocabulary_size=None, tokens="word")) == 1 + 3
    many = write(tmp_path, "b.txt", "\n".join(map(str, range(20_000))))
    assert tokens.vocabulary_size(config(many, vocabulary_size=None, tokens="word")) == 10_000
    path.write_text("xyz\n" * 500)
    assert tokens.vocabulary_size(config(path, vocabulary_size=None)) == 1 + len("xyz\n")


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("", {}, "holds no text"),
        ("a", {"vocabulary_size": 2}, "too small to be divided"),
        (
            "ab\ncd\n" * 3,
            {"sequence_length": 50, "vocabulary_size": 3},
            r"data.sequence_length=50: must be ≤",
        ),
        ("ab\ncd\n" * 99, {"vocabulary_size": 7}, r"must be ≤ 6: the text has 5 different characters"),
        ("a b\nc d\n" * 99, {"vocabulary_size": 7, "tokens": "word"}, r"must be ≤ 6.*5 different words"),
        ("ab\ncd\n" * 99, {"vocabulary_size": 1}, "must be ≥ 2"),
        ("ab\ncd\n" * 99, {"path": "/nowhere"}, "data.path=/nowhere: is not a file or folder"),
        ("ab\ncd\n" * 99, {"path": None}, "data.path=null: give a file or folder"),
        ("ab\ncd\n" * 99, {"path": None, "name": "ptb"}, r"give data/ptb or a file or folder"),
    ],
)
def test_bad_text_is_one_line(tmp_path, monkeypatch, text, changes, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HPCTRAIN_DATA", raising=False)
    with pytest.raises(UserError, match=message):
        check.check(config(write(tmp_path, "a.txt", text), **changes))


@pytest.mark.parametrize(
    ("module", "changes"),
    [
        ("tokenizers", {"tokens": "bpe", "vocabulary_size": 300}),
        ("datasets", {"path": None, "source": "x/y"}),
    ],
)
def test_a_missing_extra_is_named(tmp_path, monkeypatch, module, changes):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"needs an extra: pip install 'hpctrain\["):
        tokens.load(config(write(tmp_path, "a.txt", english(200)), **changes))


# --- Hugging Face data sets, from small local files of their formats


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_found_silent", False)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("validation", [True, False])
def test_a_hugging_face_set_streams_its_rows(tmp_path, offline, validation):
    write(tmp_path / "set", "train.jsonl", "".join(f'{{"text": "row {i:03} of it"}}\n' for i in range(200)))
    if validation:
        write(tmp_path / "set", "validation.jsonl", '{"text": "row held out"}\n' * 20)
    data = config(name="hugging_face", source=str(tmp_path / "set"), vocabulary_size=9)
    source = text_source.find_source(data)
    train, held = "".join(source.train()), "".join(source.validation())
    assert train.splitlines()[0] == "row 000 of it"
    assert len(train.splitlines()) == (200 if validation else 190)
    assert set(held.splitlines()) == (
        {"row held out"} if validation else {f"row {i:03} of it" for i in range(190, 200)}
    )
    assert check.check(data) == (len(train) - 1) // 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_a_hugging_face_set_that_is_not_there(tmp_path, offline):
    with pytest.raises(
        UserError, match=r"data.source=nobody/nothing: cannot be loaded: HF_HUB_OFFLINE is set"
    ):
        tokens.load(config(name="hugging_face", source="nobody/nothing"))
    write(tmp_path / "set", "train.jsonl", '{"words": "row"}\n' * 20)
    with pytest.raises(UserError, match=r"data.field=text: must be one of words"):
        tokens.load(config(name="hugging_face", source=str(tmp_path / "set")))


def test_a_hub_that_does_not_answer_is_told_from_the_cache_at_once(monkeypatch):
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(503)

        def log_message(self, *_):
            pass

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub._hub_answers()
    assert not hub._hub_answers()  # nobody listens there any more
    monkeypatch.setattr(hub, "_found_silent", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert hub._offline() == "the hub cannot be reached"
    assert hub._offline() == "the hub cannot be reached"  # the variable is ours now
    monkeypatch.setattr(hub, "_found_silent", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub._offline() == "HF_HUB_OFFLINE is set"


def test_ascii_is_a_text_too():
    known = Characters.learn([string.printable], 101)
    assert known.unknown(string.printable) == []


def test_a_word_of_a_million_letters_is_learned_in_parts():
    blocks = ["a b " + "xyz" * 1000 + " c", "d" * 2500]
    parts = list(vocabulary._with_short_words(blocks))
    assert "".join(parts) == "".join(blocks)
    assert [len(part) for part in parts] == [1004, 1000, 1000, 2, 1000, 1000, 500]
