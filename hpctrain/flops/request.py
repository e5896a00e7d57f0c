"""What a `hpctrain flops` command line asks for. Imports neither torch nor, for plain requests, Hydra.

Takes overrides (`model=resnet50 input=3x224x224 batch=256`), returns the checked settings of conf/flops.yaml.
Reads conf/; no other side effects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Gt
from pydantic import Field

from hpctrain.config import quick
from hpctrain.config.load import model_config
from hpctrain.config.settings import ModelConfig, OptimizerConfig, Positive, PositiveFloat
from hpctrain.config.validate import validate
from hpctrain.errors import UserError
from hpctrain.flops.conventions import Convention, find
from hpctrain.models.settings import check_target

MOST_SIZE = 2**16  # of an input, in each direction
Precision = Literal["fp32", "tf32", "bf16", "fp16", "fp64"]


@dataclass(frozen=True)
class RunPlan:
    """A whole run. `lengths` maps a length (words or frames) to the share of samples that have it."""

    dataset: str | None = None
    samples: Positive | None = None
    epochs: PositiveFloat | None = None
    lengths: Mapping[Positive, Annotated[float, Gt(0)]] | None = None
    batch: Positive = 256
    accumulate: Positive = 1
    ranks: Positive = 1
    expected_exaflops: PositiveFloat | None = None
    note: str | None = None


@dataclass(frozen=True)
class Settings:
    """conf/flops.yaml without the model."""

    optimizer: Annotated[OptimizerConfig, Field(discriminator="name")]
    batch: Positive | None = None
    mode: Literal["training", "inference"] = "training"
    convention: str = "flops"
    dtype: Precision = "fp32"
    device: str | None = None
    measured_step_s: PositiveFloat | None = None
    run: RunPlan = field(default_factory=RunPlan)


@dataclass(frozen=True)
class Request:
    """A checked request. `input_shape` is set for a `model.target` only; other networks have a setting for it."""

    model: ModelConfig
    settings: Settings
    convention: Convention
    batch: int
    input_shape: tuple[int, ...] | None = None


def request(overrides: Sequence[str]) -> Request:
    """Returns what is asked for, checked. Raises UserError."""
    values = resolve(overrides)
    shape = _sizes(values.pop("input", None))
    model, plan = values.pop("model"), values.pop("run")
    settings = validate(Settings, values | {"run": validate(RunPlan, plan, "run.")}, "")
    if shape is not None and model.get("target") is None:
        model |= _as_setting(shape, model)
    config = model_config(model)
    if config.target is not None:
        check_target(config.target)
        if shape is None:
            raise UserError("input", "null", "give the shape of the module's input, as in input=3x224x224")
    batch = settings.batch or config.network.unit.batch
    return Request(
        config, settings, find(settings.convention), batch, shape if config.target is not None else None
    )


def _sizes(text: Any) -> tuple[int, ...] | None:
    if text is None:
        return None
    sizes = str(text).replace(",", "x").strip("[]() ").split("x")
    if not all(size.strip().isdecimal() and size.strip().strip("0") for size in sizes):
        raise UserError("input", text, "must be sizes above 0 joined by x, as in 3x224x224")
    if any(len(size.strip()) > 9 or int(size) > MOST_SIZE for size in sizes):
        raise UserError("input", text, f"sizes must be ≤ {MOST_SIZE}: no sample of a data set is larger")
    return tuple(int(size) for size in sizes)


def _as_setting(shape: tuple[int, ...], model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `input` as settings of the network: the shape of an image or spectrogram, or a number of words."""
    text, name = "x".join(map(str, shape)), model["name"]
    forms = {3: "input_shape", 2: "frequency_bins", 1: "example_length"}
    wanted = next((n for n, key in forms.items() if key in model), None)
    if wanted is None or len(shape) != wanted:
        example = {3: "3x224x224 (channels, height, width)", 2: "161x100 (frequencies, frames)"}
        says = example.get(wanted or 0, "35, a number of words")
        raise UserError("input", text, f"model={name} takes {says}")
    if wanted == 2:
        return {"frequency_bins": shape[0], "example_length": shape[1]}
    return {forms[wanted]: list(shape) if wanted == 3 else shape[0]}


def resolve(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the composed configuration as plain containers. Raises UserError."""
    values = quick.compose(overrides, "flops")
    if values is None:
        from hpctrain.config.compose import compose

        values = compose([f"input='{o[6:]}'" if o.startswith("input=") else o for o in overrides], "flops")
    return values
