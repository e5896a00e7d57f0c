"""The layer that is running: hooks that record the name of the innermost module.

Takes a module; side effects: forward hooks on it and its children while the context is open.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import nn

ROOT = "(model)"


class Where:
    """A context that knows the path of the innermost running module; the outermost is "(model)"."""

    def __init__(self, model: nn.Module) -> None:
        self._stack: list[str] = [ROOT]
        self._handles: list[Any] = []
        self._model = model

    @property
    def name(self) -> str:
        """The path of the innermost running module."""
        return self._stack[-1]

    def enter(self, name: str) -> None:
        """Assigns all that runs from now on to `name`, which is not a module."""
        self._stack.append(name)

    def __enter__(self) -> Where:
        for name, module in self._model.named_modules():
            if name:
                self._handles += [
                    module.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name)),
                    module.register_forward_hook(lambda *_: self._pop(), always_call=True),
                ]
        return self

    def _pop(self) -> None:
        self._stack.pop()

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
