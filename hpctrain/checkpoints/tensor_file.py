"""The safetensors format, written from one flat host buffer and read back from one, without a second copy.

Takes named tensors on any device; returns the bytes of the file in two pieces (header, buffer), and reads them back.
The format (https://huggingface.co/docs/safetensors): 8 bytes N, little-endian; N bytes of JSON with dtype, shape and
[begin, end) of each tensor; then the bytes of the tensors, C order, little-endian, without gaps.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hpctrain.errors import RunFailed
from hpctrain.storage.run_state import Reason

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "C64": torch.complex64, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000  # as in the reference implementation

assert sys.byteorder == "little"


class HostBuffer:
    """Copies a set of tensors into host memory, which is reused as long as names, shapes and dtypes stay the same."""

    def __init__(self) -> None:
        self._key: list[tuple[str, torch.Size, torch.dtype]] | None = None
        self._views: dict[str, Tensor] = {}
        self._flat = torch.empty(0, dtype=torch.uint8)
        self.header = b""

    @property
    def data(self) -> memoryview:
        """The bytes after the header."""
        return self._flat.numpy().data

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors (...,) into the buffer. They may change as soon as this returns."""
        self.lay_out(tensors)
        for name, view in self._views.items():
            view.copy_(tensors[name].detach(), non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.synchronize()

    def lay_out(self, tensors: Mapping[str, Tensor]) -> None:
        """Allocate memory for tensors (...,) of these names, shapes and dtypes, unless it is already allocated.

        The memory is pinned if a tensor is on a GPU. Raises RunFailed for a dtype that the format does not have.
        """
        # Widest elements first: then every tensor is aligned.
        order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        key = [(name, tensors[name].shape, tensors[name].dtype) for name in order]
        if key == self._key:
            return
        header: dict[str, Any] = {}
        begin = 0
        for name, shape, dtype in key:
            if dtype not in _NAMES:
                raise RunFailed(Reason.ERROR, f"tensor {name} is {dtype}, which a checkpoint cannot hold")
            end = begin + shape.numel() * dtype.itemsize
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        # Zeroed, so that its pages are mapped before the first save.
        self._flat = torch.zeros(begin, dtype=torch.uint8, pin_memory=on_gpu)
        self._views = {
            name: self._flat[slice(*header[name]["data_offsets"])].view(dtype).view(shape)
            for name, shape, dtype in key
        }
        self._key = key


def unpack(content: bytearray) -> dict[str, Tensor]:
    """Returns the tensors (...,) of a whole file, by name, as views of `content`. Raises ValueError if that fails."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > min(len(content) - 8, _MAX_HEADER_BYTES):
        raise ValueError("the header is longer than the file")
    try:
        header = json.loads(content[8 : 8 + size])
        header.pop("__metadata__", None)
        leaves = [(*_leaf(leaf), name) for name, leaf in header.items()]
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a safetensors header ({type(error).__name__})") from None
    start = at = 8 + size
    tensors = {}
    for begin, end, shape, dtype, name in sorted(leaves, key=lambda leaf: leaf[:2]):
        if start + begin != at or (start + begin) % dtype.itemsize or start + end > len(content):
            raise ValueError(f"tensor {name} is not at its place in the file")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {name} has {end - begin} bytes, which is not its shape {shape}")
        at = start + end
        tensors[name] = (
            torch.frombuffer(content, dtype=dtype, count=math.prod(shape), offset=start + begin).view(shape)
            if end > begin
            else torch.empty(shape, dtype=dtype)
        )
    if at != len(content):
        raise ValueError(f"{len(content) - at} bytes belong to no tensor")
    return tensors


def _leaf(leaf: dict[str, Any]) -> tuple[int, int, list[int], torch.dtype]:
    """Returns (begin, end, shape, dtype) of one entry of a header. Raises ValueError if they cannot be."""
    (begin, end), shape = leaf["data_offsets"], leaf["shape"]
    numbers = [begin, end, *shape]
    if any(type(n) is not int or n < 0 or n >= 2**63 for n in numbers) or len(shape) > 64 or end < begin:
        raise ValueError("a size that cannot be")
    return begin, end, shape, DTYPES[leaf["dtype"]]
