"""Shared parts of the verbs' settings: checked number types, the sampler settings, and settings as text.

Every verb's settings are one frozen dataclass in the verb's own file, shared by the command line, TOML files and run folders. These
files import PyTorch code inside their functions, so that ``vdu --help`` stays fast.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from vdu.core.errors import shown
from vdu.core.paths import given_output, given_path
from vdu.core.ranges import (
    AT_LEAST_0,
    COUNT,
    ENOUGH_IMAGES,
    FRACTION,
    GUIDANCE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    UNIT,
    Range,
)

if TYPE_CHECKING:
    from vdu.diffusion.sampling import Sampler

__all__ = [
    "Count",
    "GivenFirst",
    "Guidance",
    "ImageCount",
    "NotNegative",
    "OutputDir",
    "Rate",
    "SamplerSettings",
    "Seed",
    "Share",
    "Tracker",
    "Unit",
    "Weight",
    "at_home",
    "plain",
    "to_toml",
    "within",
]


OUTPUTS = ("output_dir", "output")  # paths that verbs write


def within(allowed: Range) -> Parameter:
    """A number of a range on the command line; 2.5 is no whole number and is not rounded to one."""

    def check(type_: Any, value: float | None) -> None:
        if value is not None and not allowed.holds(value):
            raise ValueError(f"Got {shown(value)}; expected {allowed.expected(value)}.")

    return Parameter(validator=check, converter=_whole if allowed.whole else _real)


def _whole(type_: Any, tokens: Sequence[Any]) -> int:
    text = str(tokens[0].value)
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = Decimal(text)  # exact: floats beyond 2⁵³ are even
    except ArithmeticError:
        value = Decimal("nan")
    if value.is_finite() and value.adjusted() > 18:
        raise ValueError(f"Got {_short(text)}; expected a whole number of at most 64 bits.")
    if not value.is_finite() or value != value.to_integral_value():
        raise ValueError(f"Got {_short(text)}; expected a whole number.")
    return int(value)


def _real(type_: Any, tokens: Sequence[Any]) -> float:
    text = str(tokens[0].value)
    try:
        return float(text)
    except ValueError:  # "none" too, which cyclopts would take for the default
        raise ValueError(f"Got {_short(text)}; expected a number. Leave it out for the default.") from None


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


# checked before a run folder is touched
Count = Annotated[int, within(COUNT)]
NotNegative = Annotated[int, within(NOT_NEGATIVE)]
Seed = Annotated[int, within(SEED)]
Rate = Annotated[float, within(POSITIVE)]
Weight = Annotated[float, within(AT_LEAST_0)]
Guidance = Annotated[float, within(GUIDANCE)]
Share = Annotated[float, within(FRACTION)]
Unit = Annotated[float, within(UNIT)]
ImageCount = Annotated[int, within(ENOUGH_IMAGES)]
OutputDir = Annotated[Path, Parameter(alias="-o")]
GivenFirst = Parameter(parse=False)  # the verb's first argument, not an option
Tracker = Literal["none", "tensorboard", "wandb", "trackio"]


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """The sampling protocol, which is reported with every number.

    Attributes:
        scheduler: ddpm (ancestral), ddim or dpm++ (DPM-Solver++).
        inference_steps: network evaluations per image; the paper's protocol is ddpm with all of the model's steps.
        eta: noise of DDIM, from 0 (deterministic) to 1.
        microbatch_size: images per network evaluation; part of the protocol.
    """

    scheduler: Literal["ddpm", "ddim", "dpm++"] = (
        "ddpm"  # with so few steps, deterministic DDIM has twice the u-FID on mnist-small
    )
    inference_steps: Count = 20
    eta: Unit = 0.0
    microbatch_size: Count = 50

    def sampler(self) -> "Sampler":
        """The sampling protocol that these settings describe."""
        from vdu.diffusion.sampling import Sampler

        return Sampler(self.scheduler, self.inference_steps, eta=self.eta, microbatch_size=self.microbatch_size)


def at_home(settings: Any) -> Any:
    """Settings with ~ expanded in every path, which no shell does in ``--option=~/x`` or in a file; what cannot be written is refused."""

    def expanded(name: str, value: Any) -> Any:
        if isinstance(value, Path):
            meant = given_output if name in OUTPUTS else given_path
            return meant(value, f"--{name.replace('_', '-')}")
        return tuple(expanded(name, each) for each in value) if isinstance(value, tuple) else value

    return replace(
        settings, **{item.name: expanded(item.name, getattr(settings, item.name)) for item in fields(settings)}
    )


def plain(settings: Any) -> dict[str, Any]:
    """Settings as plain values for TOML and JSON; unset options are left out."""

    def simple(value: Any) -> Any:
        if isinstance(value, tuple):
            return [simple(each) for each in value]
        return str(value) if isinstance(value, Path) else value

    return {name: simple(value) for name, value in asdict(settings).items() if value is not None}


def to_toml(settings: Any) -> str:
    """Settings as the text of a TOML file."""
    import tomli_w

    return tomli_w.dumps(plain(settings))
