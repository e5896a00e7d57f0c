"""Networks. `settings` imports no torch; `build` and `example_inputs` import it when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpctrain.models.factory import (
        WithAuxiliary,
        build,
        check_tail,
        check_trainable,
        example_inputs,
        initialise,
    )

__all__ = ["WithAuxiliary", "build", "check_tail", "check_trainable", "example_inputs", "initialise"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hpctrain.models import factory

    return getattr(factory, name)
