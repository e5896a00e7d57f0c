"""Text files that are read line by line: aligned sentences, transcripts. Standard library only.

A line ends at a newline alone, as for `wc -l` and for whoever aligned the files: not at the other separators that
Unicode knows (U+0085, U+2028), nor at a carriage return.
"""

from __future__ import annotations

from pathlib import Path

from hpctrain.errors import UserError


def lines(path: Path) -> list[str]:
    """Returns the lines of a UTF-8 file, without their ends and without a byte-order mark. Raises UserError."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error.start) from None
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def not_utf8(path: Path, offset: int) -> UserError:
    """Returns the error for a file whose byte at `offset` is not UTF-8: the byte, and what the file seems to be."""
    with path.open("rb") as file:
        begin = file.read(4096)
        file.seek(offset)
        byte = file.read(1).hex()
    return UserError(
        "data.path",
        path,
        f"is not UTF-8 text: byte 0x{byte} at offset {offset}; it seems to be {_encoding(begin)}",
    )


def _encoding(begin: bytes) -> str:
    if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16: iconv -f UTF-16 -t UTF-8 converts it"
    if begin.count(0) > len(begin) // 10:
        return "UTF-16 without its mark, or not a text"
    return "Latin-1 or Windows-1252: iconv -f WINDOWS-1252 -t UTF-8 converts it"
