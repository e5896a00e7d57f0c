"""Lines end at newlines alone, and a file that is not UTF-8 is named with the place and a guess."""

import pytest

from hpctrain.data.lines import lines, not_utf8
from hpctrain.errors import UserError


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []), (b"\n", [""]), (b"a", ["a"]), (b"a\n", ["a"]), (b"a\nb", ["a", "b"]), (b"a\n\n", ["a", ""]),
        (b"a\r\nb\r\n", ["a", "b"]), (b"a\rb\n", ["a\rb"]), (b"\xef\xbb\xbfa\n", ["a"]), (b"a\r\r\n", ["a\r"]),
        ("a\u2028b\u0085c\x0bd\x0ce\x1cf\n".encode(), ["a\u2028b\u0085c\x0bd\x0ce\x1cf"]),
    ],
)  # fmt: skip
def test_lines(tmp_path, content, expected):
    path = tmp_path / "text"
    path.write_bytes(content)
    assert lines(path) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"good\nb\xe4d\n", "byte 0xe4 at offset 6; it seems to be Latin-1 or Windows-1252: iconv -f WINDOWS-1252"),
        ("a\n".encode("utf-16-le") + b"\xff", "it seems to be UTF-16 without its mark, or not a text"),
        ("grün\n".encode("utf-16"), "byte 0xff at offset 0; it seems to be UTF-16: iconv -f UTF-16 -t UTF-8"),
        (b"\xfe\xff\x00a", "byte 0xfe at offset 0; it seems to be UTF-16: iconv"),
        (20 * b"a" + b"\0\0\xff", "0xff at offset 22; it seems to be Latin-1"),
        (19 * b"a" + b"\0\0\xff", "0xff at offset 21; it seems to be Latin-1"),
        (18 * b"a" + b"\0\0\0\xff", "0xff at offset 21; it seems to be UTF-16 without"),
        (10_000 * b"a" + b"\xff", "byte 0xff at offset 10000; it seems to be Latin-1"),
    ],
)  # fmt: skip
def test_another_encoding(tmp_path, content, said):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        lines(path)
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"data.path={path}: is not UTF-8 text: ")
    assert refused.value.key == "data.path"


def test_an_end_in_the_middle_of_a_character_is_named(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"abc\xe6\x97")
    assert "byte 0xe6 at offset 3" in str(not_utf8(path, 3))
