"""Vocabularies: characters, words or byte-pair pieces as numbered tokens; text to numbers and back.

Takes blocks of text, returns arrays of token numbers; a vocabulary is JSON-able. Number 0 stands for anything
outside the vocabulary; characters and words are numbered by decreasing frequency. NumPy only, no torch; no side
effects.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpctrain.errors import UserError

UNKNOWN = "<unk>"
LINE_END = "<eos>"  # the word that ends a line, as is usual for the Penn Treebank and WikiText
_CODE_POINTS = 0x110000
_LONG = re.compile(r"\S{1000}")
_WORDS = re.compile(r"[^\s]+|\n")

Blocks = Iterable[str]


class Vocabulary(Protocol):
    """A vocabulary of `size` tokens, the unknown one included."""

    kind: str
    size: int

    def encode(self, blocks: Blocks) -> Iterator[NDArray[np.int64]]:
        """Yields the token numbers of the text in arrays (n,)."""
        ...

    def unknown(self, text: str) -> list[str]:
        """Returns the parts of `text` that are not in the vocabulary."""
        ...

    def piece(self, token: int) -> bytes:
        """Returns the UTF-8 bytes that a token stands for; a byte-pair piece may be a part of a character."""
        ...

    def lengths(self) -> NDArray[np.float32] | None:
        """Returns how many characters each token stands for, (N,), or None if that is not known."""

    def to_json(self) -> dict[str, Any]:
        """Returns the vocabulary as JSON values; `from_json` is the inverse."""


class Characters:
    """Each character is a token."""

    kind = "character"

    def __init__(self, characters: Sequence[str]) -> None:
        """Numbers `characters` from 1 on."""
        self._characters, self.size = list(characters), 1 + len(characters)
        self._numbers = np.zeros(_CODE_POINTS, np.int32)
        self._numbers[[ord(c) for c in characters]] = np.arange(1, self.size)

    @staticmethod
    def count(blocks: Blocks) -> Counter[str]:
        """Returns how often each token occurs in the text."""
        counts = np.zeros(_CODE_POINTS, np.int64)
        for block in blocks:
            points = _points(block)
            in_block = np.bincount(points)
            counts[: len(in_block)] += in_block
        return Counter({chr(p): int(counts[p]) for p in np.flatnonzero(counts)})

    @classmethod
    def learn(cls, blocks: Blocks, size: int) -> Characters:
        """Returns a vocabulary of the `size` - 1 most frequent tokens of the text. Raises UserError."""
        return cls(_most_frequent(cls.count(blocks), size, "characters"))

    def encode(self, blocks: Blocks) -> Iterator[NDArray[np.int64]]:
        """Yields the token numbers of the text in arrays (n,)."""
        for block in blocks:
            yield self._numbers[_points(block)].astype(np.int64)

    def unknown(self, text: str) -> list[str]:
        """Returns the parts of `text` that are not in the vocabulary."""
        return [c for c in dict.fromkeys(text) if not self._numbers[ord(c)]]

    def piece(self, token: int) -> bytes:
        """Returns the UTF-8 bytes that a token stands for."""
        return (self._characters[token - 1] if token else "\ufffd").encode()

    def lengths(self) -> NDArray[np.float32]:
        """Returns how many characters each token stands for, (N,): one."""
        return np.ones(self.size, np.float32)

    def to_json(self) -> dict[str, Any]:
        """Returns the vocabulary as JSON values."""
        return {"kind": self.kind, "tokens": self._characters}


class Words:
    """Each word between white space, and the end of each line, is a token."""

    kind = "word"

    def __init__(self, words: Sequence[str]) -> None:
        self._words, self.size = [UNKNOWN, *words], 1 + len(words)
        self._numbers = {word: number for number, word in enumerate(self._words)}

    @staticmethod
    def count(blocks: Blocks) -> Counter[str]:
        """Returns how often each token occurs in the text."""
        counts: Counter[str] = Counter()
        for words in _split(blocks):
            counts.update(words)
        counts.pop(UNKNOWN, None)  # some data sets contain it
        if "\n" in counts:
            counts[LINE_END] += counts.pop("\n")
        return counts

    @classmethod
    def learn(cls, blocks: Blocks, size: int) -> Words:
        """Returns a vocabulary of the `size` - 1 most frequent tokens of the text. Raises UserError."""
        return cls(_most_frequent(cls.count(blocks), size, "words"))

    def encode(self, blocks: Blocks) -> Iterator[NDArray[np.int64]]:
        """Yields the token numbers of the text in arrays (n,)."""
        numbers = {**self._numbers, "\n": self._numbers.get(LINE_END, 0)}
        for words in _split(blocks):
            yield np.fromiter((numbers.get(word, 0) for word in words), np.int64, len(words))

    def unknown(self, text: str) -> list[str]:
        """Returns the parts of `text` that are not in the vocabulary."""
        words = dict.fromkeys(word for word in _WORDS.findall(text) if word != "\n")
        return [word for word in words if word not in self._numbers]

    def piece(self, token: int) -> bytes:
        """Returns the UTF-8 bytes that a token stands for."""
        word = self._words[token]
        return b"\n" if word == LINE_END else f"{word} ".encode()

    def lengths(self) -> None:
        """Returns None: an unknown word's length is not known, so bits per character would be wrong."""

    def to_json(self) -> dict[str, Any]:
        """Returns the vocabulary as JSON values."""
        return {"kind": self.kind, "tokens": self._words[1:]}


class Pieces:
    """Byte-level byte-pair encoding (Sennrich et al. 2016) by the library `tokenizers`: no text is unknown."""

    kind = "bpe"

    def __init__(self, model: str) -> None:
        """`model`: the library's own JSON. Raises UserError without the library."""
        self._tokenizer = _tokenizers().Tokenizer.from_str(model)
        self.size = int(self._tokenizer.get_vocab_size())
        self._bytes = _bytes_of_characters()

    @classmethod
    def learn(cls, blocks: Blocks, size: int) -> Pieces:
        """Returns a vocabulary of `size` pieces learned from the text. Raises UserError."""
        library = _tokenizers()
        if size < 257:
            raise UserError("data.vocabulary_size", size, "must be ≥ 257: all bytes, and one for unknown")
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = library.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[UNKNOWN],
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(_with_short_words(_at_line_ends(blocks)), trainer)
        learned = tokenizer.get_vocab_size()
        if learned < size:
            raise UserError("data.vocabulary_size", size, f"must be ≤ {learned}: the text has no more pieces")
        return cls(tokenizer.to_str())

    def encode(self, blocks: Blocks) -> Iterator[NDArray[np.int64]]:
        """Yields the token numbers of the text in arrays (n,)."""
        for block in _at_line_ends(blocks):
            # Short parts keep all of the library's threads busy, and its records of each part small.
            parts = list(_at_line_ends(block[i : i + 4096] for i in range(0, len(block), 4096)))
            for encoding in self._tokenizer.encode_batch_fast(parts, add_special_tokens=False):
                yield np.asarray(encoding.ids, np.int64)

    def unknown(self, text: str) -> list[str]:
        """Returns the parts of `text` that are not in the vocabulary."""
        del text
        return []

    def piece(self, token: int) -> bytes:
        """Returns the UTF-8 bytes that a token stands for."""
        return bytes(self._bytes[c] for c in self._tokenizer.id_to_token(token)) if token else b""

    def lengths(self) -> NDArray[np.float32]:
        """Returns how many bytes of each token begin a character, (N,)."""
        pieces = (self.piece(token) for token in range(self.size))
        return np.array([sum(byte & 0xC0 != 0x80 for byte in piece) for piece in pieces], np.float32)

    def to_json(self) -> dict[str, Any]:
        """Returns the vocabulary as JSON values."""
        return {"kind": self.kind, "model": self._tokenizer.to_str()}


KINDS: dict[str, Any] = {"character": Characters, "word": Words, "bpe": Pieces}


def from_json(values: dict[str, Any]) -> Vocabulary:
    """Returns the vocabulary that `to_json` wrote. Raises KeyError or ValueError if it is not one."""
    vocabulary: Vocabulary = KINDS[values["kind"]](values.get("tokens", values.get("model")))
    return vocabulary


def available(kind: str, blocks: Blocks) -> int:
    """Returns the largest possible vocabulary of characters or words for this text, the unknown token included."""
    count: Callable[[Blocks], Counter[str]] = KINDS[kind].count
    return 1 + len(count(blocks))


def _most_frequent(counts: Counter[str], size: int, what: str) -> list[str]:
    """Returns the `size` - 1 most frequent tokens. Raises UserError if the text has fewer."""
    if size > len(counts) + 1:
        raise UserError(
            "data.vocabulary_size", size,
            f"must be ≤ {len(counts) + 1}: the text has {len(counts):,} different {what}, one more is unknown",
        )  # fmt: skip
    if size < 2:
        raise UserError("data.vocabulary_size", size, "must be ≥ 2: one token, and the unknown")
    return sorted(counts, key=lambda token: (-counts[token], token))[: size - 1]


def _points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _split(blocks: Blocks) -> Iterator[list[str]]:
    """Yields the words of each block; a word cut by the end of a block is yielded whole with the next."""
    rest = ""
    for block in blocks:
        text = rest + block
        words = _WORDS.findall(text)
        cut = bool(words) and not text[-1].isspace()
        rest = words.pop() if cut else ""
        yield words
    if rest:
        yield [rest]


def _at_line_ends(blocks: Blocks) -> Iterator[str]:
    """Yields the same text in blocks that end after newlines, so that no piece is cut: none crosses a newline."""
    rest: list[str] = []
    for block in blocks:
        end = block.rfind("\n") + 1
        if end:
            yield "".join(rest) + block[:end]
            rest = []
        rest.append(block[end:])
    if any(rest):
        yield "".join(rest)


def _with_short_words(blocks: Blocks) -> Iterator[str]:
    """Yields the same text, cut within words of more than 1,000 characters: learning takes their length squared."""
    for block in blocks:
        at = 0
        for long in _LONG.finditer(block):
            yield block[at : long.end()]
            at = long.end()
        yield block[at:]


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError("data.tokens", "bpe", "needs an extra: pip install 'hpctrain[text]'") from None
    return tokenizers


def _bytes_of_characters() -> dict[str, int]:
    """Returns the byte behind each character of byte-level encodings: printable bytes are themselves, others follow
    from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
