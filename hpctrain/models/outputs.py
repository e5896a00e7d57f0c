"""The result of networks that return more than logits in training. No side effects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from hpctrain.errors import UserError

_AUXILIARY = re.compile(r"aux(_logits)?\d*")


class WithAuxiliary(NamedTuple):
    """Logits, and further terms of the training loss.

    `auxiliary` holds further logits (GoogLeNet's heads, of the shape of `logits`) or scalar losses (the load balance
    of a mixture of experts).
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]


def parts(output: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Returns a network's logits (..., K) and the further terms of its training loss; plain logits have none.

    Takes what networks elsewhere return: logits; a tuple or list that begins with them, whose other parts do not count
    (features, states); a mapping or named tuple with `logits`, or else `out`, in which `aux`, `aux_logits`,
    `aux_logits1` and so on are logits of auxiliary heads. Raises UserError for anything else.
    """
    if isinstance(output, Tensor):
        return output, ()
    if isinstance(output, WithAuxiliary):
        return output
    fields = output._asdict() if hasattr(output, "_asdict") else output
    if isinstance(fields, Mapping):
        logits = fields.get("logits", fields.get("out"))
        auxiliary = [value for name, value in fields.items() if _AUXILIARY.fullmatch(str(name))]
        if isinstance(logits, Tensor):
            return logits, tuple(value for value in auxiliary if isinstance(value, Tensor))
    elif isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0], ()
    held = f" of {', '.join(map(str, fields))}" if isinstance(fields, Mapping) else ""
    raise UserError(
        "model.target", f"{type(output).__name__}{held}", "the network must return logits: a tensor, a tuple that "
        "begins with it, or a mapping with `logits` (auxiliary heads: `aux_logits`)"
    )  # fmt: skip
