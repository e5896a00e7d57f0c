"""Sentence pairs from line-aligned files and from gettext catalogues, without torch."""

import struct
import zlib
from dataclasses import replace

import pytest

from hpctrain.config.settings import DataConfig
from hpctrain.data.translation import source
from hpctrain.data.translation.source import (
    Pairs,
    aligned,
    catalogued,
    catalogues,
    count,
    files,
    pairs,
    vocabulary,
)
from hpctrain.errors import UserError


def lines(folder, **texts):
    """Writes train and valid of both languages; returns the configuration that reads them."""
    folder.mkdir(exist_ok=True)
    for name, text in (
        {"train_en": "a\n", "train_de": "x\n", "valid_en": "b\n", "valid_de": "y\n"} | texts
    ).items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return DataConfig("parallel", str(folder), sequence_length=3)


def catalogue(path, entries, encoding="UTF-8"):
    """Writes a gettext .mo file: header, two tables of (length, offset), the strings."""
    entries = sorted({"": f"Content-Type: text/plain; charset={encoding}\n", **entries}.items())
    sides = [[text[side].encode(encoding) + b"\0" for text in entries] for side in (0, 1)]
    offset = 28 + 16 * len(entries)
    tables, body = b"", b""
    for side in sides:
        for text in side:
            tables += struct.pack("<II", len(text) - 1, offset + len(body))
            body += text
    number = len(entries)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<7I", 0x950412DE, 0, number, 28, 28 + 8 * number, 0, 0) + tables + body)


def refused(call, config):
    with pytest.raises(UserError) as refusal:
        call(config)
    return str(refusal.value)


def test_words_are_lower_case_and_signs_are_words():
    assert source.words("It's 3 o'clock, Ä.") == ["it", "'", "s", "3", "o", "'", "clock", ",", "ä", "."]


def test_the_vocabulary_is_the_most_frequent_words_of_both_languages():
    sentences = [(["b", "a", "a"], ["c", "b"]), (["d"], [])]
    assert vocabulary(sentences, 6) == {"a": 4, "b": 5}
    assert vocabulary(sentences, 99) == {"a": 4, "b": 5, "c": 6, "d": 7}


class TestAligned:
    def test_a_line_is_a_sentence_in_both_languages(self, tmp_path):
        config = lines(tmp_path / "set", train_en="A cat.\nä\n", train_de="Eine Katze.\nb\n")
        train = [(["a", "cat", "."], ["eine", "katze", "."]), (["ä"], ["b"])]
        assert aligned(config) == Pairs(train, [(["b"], ["y"])])

    def test_its_files_are_named(self, tmp_path):
        config = lines(tmp_path / "set")
        names = ("train.en", "train.de", "valid.en", "valid.de")
        assert files(config) == (tmp_path / "set", [tmp_path / "set" / name for name in names])
        (tmp_path / "set/valid.de").unlink()
        assert refused(files, config) == f"data.path={tmp_path / 'set'}: has no valid.de"
        assert refused(files, replace(config, languages=("fr", "en"))).endswith(": has no train.fr")
        assert "data.path=null" in refused(files, replace(config, path=None))

    @pytest.mark.parametrize("split", ["train", "valid"])
    def test_both_languages_have_as_many_lines(self, tmp_path, split):
        config = lines(tmp_path / "set", **{f"{split}_en": "a\nb\n"})
        said = f"data.path={tmp_path / 'set'}: {split}.*: 2 lines in one language, 1 in the other"
        assert refused(aligned, config) == said


class TestWords:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("It's 3.5 \u20ac!", ["it", "'", "s", "3", ".", "5", "\u20ac", "!"]),
            ("\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e!",
             ["\u0928\u092e\u0938\u094d\u0924\u0947", "\u0926\u0941\u0928\u093f\u092f\u093e", "!"]),
            ("e\u0301a", ["e\u0301a"]), ("\u05e9\u05b8\u05c1", ["\u05e9\u05b8\u05c1"]),
            ("\u6211\u559c\u6b22 Python\u3002", ["\u6211", "\u559c", "\u6b22", "python", "\u3002"]),
            ("a\u6211b", ["a", "\u6211", "b"]),
            ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
             ["\u0e2a", "\u0e27\u0e31", "\u0e2a", "\u0e14\u0e35"]),
            ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
             ["\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]),
        ],
    )  # fmt: skip
    def test_a_word_is_a_word_in_every_script(self, text, expected):
        assert source.words(text) == expected

    @pytest.mark.parametrize("odd", ["\u2028", "\u0085", "\x0b", "\x0c", "\x1c", "\r"])
    def test_a_line_ends_at_a_newline_alone(self, tmp_path, odd):
        config = lines(tmp_path / "set", train_en=f"\ufeffa{odd}b\nc\r\nd", train_de="x\ny\nz\n")
        assert [pair[1] for pair in aligned(config).train] == [["x"], ["y"], ["z"]]
        assert [pair[0][-1] for pair in aligned(config).train] == ["b", "c", "d"]


class TestCatalogues:
    @pytest.fixture
    def config(self, tmp_path):
        return DataConfig("gettext", str(tmp_path), sequence_length=9)

    def test_what_programs_say_is_found_by_language(self, tmp_path, config, monkeypatch):
        for name in ("b.mo", "a.mo", "c.txt"):
            catalogue(tmp_path / "de/LC_MESSAGES" / name, {})
        paths = [tmp_path / "de/LC_MESSAGES" / name for name in ("a.mo", "b.mo")]
        assert catalogues(config) == (tmp_path, paths)
        monkeypatch.setattr(source, "LOCALES", tmp_path)
        assert catalogues(replace(config, path=None)) == (tmp_path, paths)
        monkeypatch.setenv("HOME", str(tmp_path.parent))
        assert catalogues(replace(config, path=f"~/{tmp_path.name}")) == (tmp_path, paths)
        it = replace(config, languages=("en", "it"))
        assert refused(catalogues, it) == f"data.path={tmp_path}: has no it/LC_MESSAGES/*.mo"

    def test_what_is_no_sentence_pair_is_left_out(self, tmp_path, config):
        catalogue(
            tmp_path / "de/LC_MESSAGES/a.mo",
            {
                "Open": "Öffnen",
                "Same": "Same",
                "%s files": "%s Dateien",
                "Two\nlines": "Zwei",
                "file\0files": "D\0Dn",
            },
        )
        catalogue(tmp_path / "de/LC_MESSAGES/b.mo", {"Open": "Later", "Close": "Schließen"})
        catalogue(tmp_path / "de/LC_MESSAGES/c.mo", {"Latin": "Löst"}, "latin-1")
        (tmp_path / "de/LC_MESSAGES/d.mo").write_bytes(b"no catalogue")
        (tmp_path / "de/LC_MESSAGES/e.mo").write_bytes(
            (tmp_path / "de/LC_MESSAGES/c.mo").read_bytes().replace(b"latin-1", b"UTF-8\n\n")
        )
        found = catalogued(config)
        assert sorted(found.train + found.validation) == [
            (["close"], ["schließen"]), (["latin"], ["löst"]), (["open"], ["öffnen"]),
        ]  # fmt: skip

    def test_one_in_twenty_is_for_validation_by_its_own_words(self, tmp_path, config):
        names = [f"word{number:03}" for number in range(200)]
        catalogue(tmp_path / "de/LC_MESSAGES/a.mo", {name: f"das {name}" for name in names})
        found = catalogued(config)
        held_out = [name for name in names if zlib.crc32(name.encode()) % 20 == 0]
        assert held_out
        assert [pair[0] for pair in found.validation] == [[name] for name in held_out]
        assert [pair[0] for pair in found.train] == [[name] for name in names if name not in held_out]
        assert found.train[0][1] == ["das", found.train[0][0][0]]


class TestPairs:
    def test_sentences_of_up_to_the_length_are_taken(self, tmp_path):
        # A translation needs room for its end.
        config = lines(
            tmp_path / "set", train_en="a b c\na b c d\na\n\na\na\n", train_de="x y\nx\nx y z\nx\n\nx\n"
        )
        found = pairs(config)
        assert found == Pairs(
            [(["a", "b", "c"], ["x", "y"]), (["a"], ["x"])], [(["b"], ["y"])],
            ("2 pairs longer than 3 words", "2 pairs with an empty side"),
        )  # fmt: skip
        assert count(config) == 2

    def test_limits_cut_each_split(self, tmp_path):
        texts = {f"{split}_{side}": "a\n" * 5 for split in ("train", "valid") for side in ("en", "de")}
        config = replace(lines(tmp_path / "set", **texts), train_limit=3, validation_limit=2)
        assert [len(split) for split in (pairs(config).train, pairs(config).validation)] == [3, 2]

    @pytest.mark.parametrize(("text", "split"), [("train_en", "train"), ("valid_en", "validation")])
    def test_a_split_without_a_short_sentence_is_named(self, tmp_path, text, split):
        config = lines(tmp_path / "set", **{text: "a b c d\n"})
        assert refused(pairs, config) == f"data.sequence_length=3: no {split} sentence is as short"

    def test_a_length_must_be_given(self, tmp_path):
        config = replace(lines(tmp_path / "set"), sequence_length=None)
        assert refused(pairs, config) == "data.sequence_length=null: give the most words of a sentence"
