"""Our files are read by the safetensors library, and its files by us; what is damaged is refused."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.checkpoints import tensor_file
from hpctrain.checkpoints.tensor_file import DTYPES, HostBuffer, unpack
from hpctrain.errors import RunFailed


def filled(tensors):
    buffer = HostBuffer()
    buffer.fill(tensors)
    return buffer


def file_of(buffer):
    return bytearray(buffer.header + bytes(buffer.data))


def address(buffer):
    return np.frombuffer(buffer.data, np.uint8).ctypes.data


def same(found, expected):
    def content(tensor):
        return tensor.dtype, tensor.shape, tensor.detach().reshape(-1).view(torch.uint8).tolist()

    return {name: content(t) for name, t in found.items()} == {
        name: content(t) for name, t in expected.items()
    }


def numbers(dtype, *shape):
    count = torch.Size(shape).numel()
    return (torch.arange(count) % 2).to(dtype).view(shape)


MIXED = {
    "half": numbers(torch.float16, 3),
    "scalar": torch.tensor(2.5),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "flags": torch.tensor([True, False, True]),
    "step": torch.tensor([2**40]),
    "large": torch.arange(1000.0),
    "weight": torch.nn.Parameter(torch.ones(2, 2)),
    "empty": torch.empty(0, 4),
    "also_empty": torch.empty(0, 4, dtype=torch.int8),
}


@pytest.mark.parametrize("tensors", [*({"x": numbers(dtype, 3, 5)} for dtype in DTYPES.values()), MIXED, {}])
def test_the_library_reads_our_files_and_we_read_its(tensors):
    ours = file_of(filled(tensors))
    assert same(safetensors.torch.load(bytes(ours)), tensors)
    assert same(unpack(ours), tensors)
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    assert same(unpack(bytearray(safetensors.torch.save(plain, metadata={"by": "the library"}))), tensors)


def test_a_file_by_hand():
    # The widest elements come first, then names in their order. The header is filled up to a multiple of 8.
    tensors = {"c": torch.tensor([1, 2], dtype=torch.uint8), "b": torch.tensor([1.0]), "a": torch.tensor(0.0)}
    text = (
        b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},'
        b' "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},'
        b' "c": {"dtype": "U8", "shape": [2], "data_offsets": [8, 10]}}'
    )
    assert len(text) == 182
    buffer = filled(tensors)
    assert buffer.header == b"\xb8" + bytes(7) + text + b"  "
    assert bytes(buffer.data) == bytes(4) + b"\x00\x00\x80\x3f" + b"\x01\x02"


def test_tensors_may_change_once_they_are_copied():
    tensor = torch.ones(3)
    buffer = filled({"x": tensor})
    tensor.zero_()
    assert unpack(file_of(buffer))["x"].tolist() == [1, 1, 1]


def test_memory_is_used_again_while_the_tensors_are_alike():
    buffer = filled({"x": torch.ones(3)})
    before = address(buffer)
    buffer.fill({"x": torch.zeros(3)})
    assert address(buffer) == before
    assert unpack(file_of(buffer))["x"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "other",
    [{"y": torch.ones(3)}, {"x": torch.ones(3, 1)}, {"x": torch.ones(3, dtype=torch.int32)}, {}],
    ids=["name", "shape", "dtype", "none"],
)
def test_other_tensors_are_laid_out_anew(other):
    buffer = filled({"x": torch.ones(3)})
    buffer.fill(other)
    assert same(unpack(file_of(buffer)), other)


def test_memory_can_be_made_before_there_is_something_to_save():
    buffer = HostBuffer()
    assert (buffer.header, bytes(buffer.data)) == (b"", b"")
    tensors = {"x": torch.ones(3), "y": torch.ones(2, dtype=torch.bfloat16)}
    buffer.lay_out(tensors)
    before = address(buffer)
    assert bytes(buffer.data) == bytes(16)
    buffer.fill(tensors)
    assert address(buffer) == before


def test_a_dtype_that_the_format_does_not_know_fails_the_run_and_keeps_the_buffer():
    buffer = filled({"x": torch.ones(3)})
    with pytest.raises(RunFailed) as caught:
        buffer.fill({"x": torch.ones(3, dtype=torch.complex128)})
    assert str(caught.value) == "ERROR: tensor x is torch.complex128, which a checkpoint cannot hold"
    assert unpack(file_of(buffer))["x"].tolist() == [1, 1, 1]


def test_what_is_read_lies_in_the_files_bytes():
    content = file_of(filled({"x": torch.zeros(2, dtype=torch.uint8)}))
    unpack(content)["x"].fill_(7)
    assert content[-2:] == b"\x07\x07"


def packed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return bytearray(len(text).to_bytes(8, "little") + text + data)


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_two_empty_tensors_may_lie_at_one_place():
    found = unpack(packed({"x": entry(0, 0, [0]), "y": entry(0, 0, [0], "U8")}))
    assert (found["x"].dtype, found["y"].dtype) == (torch.float32, torch.uint8)


def test_an_entry_may_have_64_dimensions():
    assert unpack(packed({"x": entry(0, 4, [1] * 64)}, bytes(4)))["x"].shape == (1,) * 64


IMPOSSIBLE = "^a size that cannot be$"
DISPLACED = "^tensor x is not at its place in the file$"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "^the header is longer than the file$"),
        (b"\x00" * 7, "^the header is longer than the file$"),
        (b"\x03" + b"\x00" * 7 + b"{}", "^the header is longer than the file$"),
        (b"\x00" * 8, "Expecting value"),
        (packed(b"{"), "Expecting property name"),
        (packed(b"[" * 1_000_000), r"^not a safetensors header \(RecursionError\)$"),
        (packed([]), r"^not a safetensors header \(TypeError\)$"),
        (packed("text"), r"^not a safetensors header \(AttributeError\)$"),
        (packed({"x": {}}), r"^not a safetensors header \(KeyError\)$"),
        (packed({"x": 3}), r"^not a safetensors header \(TypeError\)$"),
        (packed({"x": entry(shape=3)}, bytes(8)), r"^not a safetensors header \(TypeError\)$"),
        (packed({"x": entry(dtype="F31")}, bytes(8)), r"^not a safetensors header \(KeyError\)$"),
        (packed({"x": entry(shape=[-2])}, bytes(8)), IMPOSSIBLE),
        (packed({"x": entry(shape=[2.0])}, bytes(8)), IMPOSSIBLE),
        (packed({"x": entry(end=True, shape=[1], dtype="U8")}, b"1"), IMPOSSIBLE),
        (packed({"x": entry(shape=[2**63])}, bytes(8)), IMPOSSIBLE),
        (packed({"x": entry(shape=[2, *[1] * 64])}, bytes(8)), IMPOSSIBLE),
        (packed({"x": entry(8, 0)}, bytes(8)), IMPOSSIBLE),
        (packed({"x": entry(8, 16)}, bytes(16)), DISPLACED),  # a hole before it
        (packed({"w": entry(), "x": entry(4, 12)}, bytes(12)), DISPLACED),  # it overlaps with another
        (packed({"w": entry(0, 2, [2], "U8"), "x": entry(2, 10)}, bytes(10)), DISPLACED),  # not aligned
        (packed({"x": entry()}, bytes(7)), DISPLACED),  # the file ends before it
        (packed({"x": entry(shape=[3])}, bytes(8)), r"^tensor x has 8 bytes, which is not its shape \[3\]$"),
        (
            packed({"w": entry(), "x": entry(8, 16, [])}, bytes(16)),
            r"^tensor x has 8 bytes, which is not its shape \[\]$",
        ),
        (packed({"x": entry()}, bytes(11)), "^3 bytes belong to no tensor$"),
    ],
)
def test_other_bytes_are_refused(content, why):
    with pytest.raises(ValueError, match=why):
        unpack(bytearray(content))


def test_a_header_may_be_as_long_as_the_library_allows(monkeypatch):
    content = packed({"x": entry()}, bytes(8))
    length = len(content) - 16
    monkeypatch.setattr(tensor_file, "_MAX_HEADER_BYTES", length)
    assert unpack(content)["x"].tolist() == [0, 0]
    monkeypatch.setattr(tensor_file, "_MAX_HEADER_BYTES", length - 1)
    with pytest.raises(ValueError, match="the header is longer than the file"):
        unpack(content)


@settings(deadline=None)
@given(place=st.integers(0, 1000), byte=st.integers(0, 255))
def test_a_damaged_byte_is_an_error_of_the_file_or_another_value(place, byte):
    content = file_of(filled(MIXED))
    content[place % len(content)] = byte
    try:
        unpack(content)
    except ValueError:
        return
