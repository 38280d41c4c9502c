"""The base class of the methods: shared defaults, so that a method's file holds little more than its formula.

A method is a frozen dataclass: its fields are its options (and its identity), ``losses`` is its formula, and its metadata are class
attributes (:class:`Described`). ``docs/adding-a-method.md`` shows how to write one.
"""

import inspect
import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from types import CellType, CodeType, FunctionType, MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from vdu.core.errors import InputError, shown
from vdu.core.ranges import Range, require_choice, require_flags, require_kind, require_ranges
from vdu.core.records import sha256_bytes
from vdu.core.types import Batch, Condition, Denoiser, Hooks, Losses, NoisedBatch, Tools
from vdu.diffusion.schedule import NoiseSchedule, require_range
from vdu.methods.defaults import TrainingDefaults
from vdu.posterior.gaussian import GaussianPosterior
from vdu.posterior.low_rank import corrected_layers, low_rank_posterior

__all__ = [
    "HIDDEN",
    "PRIVATE",
    "BaseMethod",
    "Described",
    "Method",
    "compiled",
    "drawn",
    "in_place",
    "matched",
    "mean_squared",
    "nearest",
    "other_condition",
    "under",
]

ANY = Range("a finite number", -math.inf, above=True)
WHOLE = Range("a whole number", -math.inf, whole=True)
HIDDEN = MappingProxyType({"option": False})
"""Metadata of a field that is not an option of the command line."""
UNSTABLE = {
    "__doc__",
    "__module__",
    "__qualname__",
    "__firstlineno__",
    "__dict__",
    "__weakref__",
    "__dataclass_fields__",
}
PRIVATE = MappingProxyType({"option": False, "identity": False})
"""Metadata of a field that :meth:`BaseMethod.prepare` fills; it is not a setting."""


class Described(Hooks):
    """Metadata of a method; plain class attributes, which are not fields of the dataclass below.

    Attributes:
        name: the name on the command line.
        summary: what the method does, in one sentence.
        needs: the roles of data in each batch.
        uses: the tools that it needs, attributes of :class:`vdu.core.types.Tools`.
        batch_shares: images of a role per step, as a fraction of the batch size, if it is not 1.
        draws: uniform random numbers in [0, 1) that arrive with a role's images, in ``NoisedBatch.draws``: role → name →
            "image" (one number per image) or "element" (one per element of the image).
        limits: of monitored values; by default twice the mean squared error of predicting no noise at all.
        training: its default training settings.
        stops: whether the stopping rule (:mod:`vdu.replay.stopping`) may end it early.
        strength: options whose larger values forget more.
        substitutes: when another label or prompt takes the place of one to forget (``Tools.substitute``): "" never, "asked" if the user
            names one (``--instead``), "words" also the empty prompt for what is forgotten in words, "always" also the null condition.
        part: the only part of the network that it changes (``--train``); None if the user chooses.
        corrections: whether low-rank corrections can train (``--train lora:RANK``), which have no gradient of their own at the start.
        word_part: what trains if the user says in words what is to be forgotten and chooses no part; None is all of the network.
        estimator: the estimator of the posterior that the method requires; None if it requires none.
        retain_options: options that apply if the user gives images to keep.
        word_options: options that apply if the user says in words what is to be forgotten.
        label_options: options that apply if classes of a model with a null class are to be forgotten, and nothing is named instead.
        relabels: whether ``own_forget`` holds all generated samples, under the labels to forget.
        pool: number of batches that repeat with the targets of :meth:`BaseMethod.targets`; 0 draws a new batch at every step.
        ranges: of its own options that are numbers, in addition to those of the classes it inherits from.
        choices: the words that its own options may be, likewise.
        only_with: options of its own that act only with certain values of others, likewise: option → (another, its values).
    """

    name: str = ""
    summary: str = ""
    needs: frozenset[str] = frozenset({"forget"})
    uses: frozenset[str] = frozenset()
    batch_shares: Mapping[str, float] = MappingProxyType({})
    draws: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    limits: Mapping[str, float] = MappingProxyType({"mse": 2.0})
    training: TrainingDefaults = TrainingDefaults()
    stops: bool = False
    substitutes: str = ""
    part: str | None = None
    corrections: bool = True
    word_part: str | None = None
    strength: tuple[str, ...] = ()
    estimator: str | None = None
    retain_options: Mapping[str, str] = MappingProxyType({})
    word_options: Mapping[str, Any] = MappingProxyType({})
    label_options: Mapping[str, Any] = MappingProxyType({})
    relabels: bool = False
    pool: int = 0
    ranges: Mapping[str, Range] = MappingProxyType({})
    choices: Mapping[str, Collection[str]] = MappingProxyType({})
    only_with: Mapping[str, tuple[str, Collection[Any]]] = MappingProxyType({})


@dataclass(frozen=True, eq=False, kw_only=True)
class BaseMethod(Described):
    """A method with uniformly drawn noise levels of the model's schedule.

    Args:
        schedule: the noise levels; None takes the model's own.
        alpha_bar_range: only noise levels with ᾱ in this range are used.
        tools: the argument of :meth:`prepare`.
    """

    schedule: NoiseSchedule | None = field(default=None, metadata=HIDDEN)
    alpha_bar_range: tuple[float, float] = (0.0, 1.0)
    tools: Tools | None = field(default=None, repr=False, metadata=PRIVATE)
    _conditional: bool = field(default=False, repr=False, metadata=PRIVATE)
    _instead: bool = field(default=False, repr=False, metadata=PRIVATE)

    def __new__(cls, *unnamed: Any, **_: Any) -> Self:
        """Refuse an option without its name, where the options have to be named."""
        places = [item for item in fields(cls) if item.init and not item.kw_only]
        if len(unnamed) > len(places):
            raise InputError(
                f"{cls.__name__}: got {shown(unnamed[len(places)])} without a name; expected options by name, "
                "such as alpha_bar_range=(0.1, 0.9)."
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        require_range("alpha_bar_range", self.alpha_bar_range)
        for kind in type(self).__mro__:
            require_ranges(vars(self), vars(kind).get("ranges", {}))
            for name, words in vars(kind).get("choices", {}).items():
                require_choice(name, getattr(self, name), words)
        for item in fields(self):
            _require_kind(item, getattr(self, item.name))

    def require_effects(self) -> None:
        """Refuse an option that was changed and does nothing beside the value of another one (``only_with``).

        Raises:
            InputError: for the first such option.
        """
        for kind in type(self).__mro__:
            for name, (other, values) in vars(kind).get("only_with", {}).items():
                if getattr(self, name) != getattr(type(self), name) and getattr(self, other) not in values:
                    raise InputError(
                        f"{name}: got {getattr(self, name)}, which has no effect with {other}={getattr(self, other)}; expected "
                        f"{other}={' or '.join(map(str, values))}. Leave {name} out, or change {other}."
                    )

    @property
    def identity(self) -> str:
        """Hash of all settings, and of the code of a class that is not the package's own, for a resumed run."""
        settings = {
            item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.metadata.get("identity", True)
        }
        return sha256_bytes(repr((self.name, sorted(settings.items()), *_source(type(self)))).encode())

    def draw_weights(self, role: str = "forget") -> Tensor:
        """Uniform probabilities of the noise levels; for images to forget, within the range only.

        Args:
            role: of the images; "retain" uses all levels.

        Returns:
            Relative probabilities, [T], float64. A range without a level raises an error (:meth:`NoiseSchedule.within`).
        """
        assert self.schedule is not None, "prepare() comes first"
        return self.schedule.within((0.0, 1.0) if role == "retain" else self.alpha_bar_range).double()

    def idle_options(self) -> Mapping[str, Any]:
        """Options with other values than the defaults that have no effect where something takes the place of the concept."""
        return {}

    def for_model(self, denoiser: Denoiser, *, instead: bool = False) -> Self:
        """The method's form for a model, before anything is made; methods refuse models here that they cannot work on.

        Args:
            denoiser: the original.
            instead: whether the user named what takes the place of the concept.

        Returns:
            The method. Conditional models have labels or prompts. A schedule without a level in the range of ᾱ is refused.
        """
        if not self.in_closed_form():
            (self.schedule or denoiser.schedule).within(self.alpha_bar_range)
        return replace(self, _conditional=bool(denoiser.class_names), _instead=instead)

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Take the tools, and the model's schedule if none was given."""
        missing = [name for name in sorted(self.uses) if getattr(tools, name) is None]
        if missing:
            raise InputError(
                f"{self.name}: needs {', '.join(missing)}, got none; vdu.unlearn makes them unless it is given tools."
            )
        return replace(self, schedule=self.schedule or denoiser.schedule, tools=tools)

    def targets(self, batch: Batch) -> Mapping[str, Tensor]:
        """Targets that do not depend on the student, by role; none by default."""
        return {}

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The formula of the method."""
        raise NotImplementedError

    def solve(self, denoiser: Denoiser) -> Mapping[str, float]:
        """For a method in closed form, in place of losses: write the new weights, and return values for the log."""
        raise NotImplementedError

    @classmethod
    def in_closed_form(cls) -> bool:
        """Whether the method is solved at once and takes no steps."""
        return cls.solve is not BaseMethod.solve


def _source(kind: type) -> tuple[str, ...]:
    """The code of a user's class and of the user's classes that it inherits from: its text where there is one, and what it calls."""
    try:
        text = tuple(map(inspect.getsource, _users(kind)))
    except (OSError, TypeError):
        text = ()
    return (*text, *compiled(kind))


def compiled(kind: type) -> tuple[str, ...]:
    """The compiled code of a user's class and of the user's classes that it inherits from, and the text of their ``FILE.py``.

    Args:
        kind: a method's class.

    Returns:
        Equal for equal code, in one version of Python; () for a class of the package. Functions and plain values of the same module that
        the code names are part of it; lists, dictionaries and sets, and what it imports, are not.
    """
    own = [each for each in _users(kind) if each.__module__ not in ("abc", "typing")]
    files = {str(vars(sys.modules.get(each.__module__, sys)).get("__vdu_text__", "")) for each in own}
    return (*(_stable(dict(vars(each))) for each in own), *sorted(files - {""}))


def _users(kind: type) -> list[type]:
    return [each for each in kind.__mro__ if each.__module__.partition(".")[0] not in ("vdu", "builtins")]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _stable(value: Any, seen: tuple[Any, ...] = ()) -> str:
    """A text of code and plain values that another process gives, too; ``seen``: the functions around it."""
    if value is None or isinstance(value, str | bytes | int | float | complex):
        return repr(value)
    if isinstance(value, CodeType):
        return _stable(
            (value.co_code.hex(), value.co_names, value.co_varnames, value.co_freevars, value.co_consts), seen
        )
    if isinstance(value, FunctionType) and value not in seen:
        named = {each: value.__globals__.get(each) for each in value.__code__.co_names}
        cells = list(map(_content, value.__closure__ or ()))
        used = {
            each: other
            for each, other in named.items()
            if getattr(other, "__module__", None) in (None, value.__module__)
            and not isinstance(other, dict | list | set)
        }  # a container may be a cache, which fills during a run
        return _stable((value.__code__, value.__defaults__, value.__kwdefaults__, cells, used), (*seen, value))
    if isinstance(value, staticmethod | classmethod):
        return _stable(value.__func__, seen)
    if isinstance(value, property):
        return _stable((value.fget, value.fset), seen)
    if isinstance(value, Mapping):
        parts = {f"{name}: {_stable(each, seen)}" for name, each in value.items() if name not in UNSTABLE}
        return f"{{{', '.join(sorted(parts))}}}"
    if isinstance(value, set | frozenset | tuple | list):
        parts = [_stable(each, seen) for each in value]
        return f"[{', '.join(sorted(parts) if isinstance(value, set | frozenset) else parts)}]"
    return type(value).__qualname__


Method = BaseMethod
"""The base class under its public name, ``vdu.Method``."""


def mean_squared(denoiser: Denoiser, batch: NoisedBatch, target: Tensor | None = None) -> Tensor:
    """‖ε_θ(x_t, t) − target‖²/d of each image.

    Args:
        denoiser: the model.
        batch: noised images, each [batch, channels, height, width].
        target: by default the drawn noise.

    Returns:
        [batch], float32 or the model's own precision.
    """
    wanted = batch.noise if target is None else target
    return (denoiser.noise(batch) - wanted).square().flatten(1).mean(1)


def under(batch: NoisedBatch, condition: Condition | None) -> NoisedBatch:
    """The same noised images under another condition.

    Args:
        batch: noised images.
        condition: of one sample or of several, which are used in turn; None for an unconditional model.

    Returns:
        The batch.
    """
    rows = torch.arange(len(batch.x0))
    found = condition and {name: value[(rows % len(value)).to(value.device)] for name, value in condition.items()}
    return replace(batch, condition=found)


def in_place(batch: NoisedBatch, unwanted: Condition | None, substitute: Condition) -> NoisedBatch:
    """The same noised images, each under what takes the place of its own prompt.

    Args:
        batch: noised images under prompts to forget.
        unwanted: the conditions of these prompts; None or a single substitute leaves no choice.
        substitute: those of what takes their place, in the same order, or a single one.

    Returns:
        The batch. A condition that is not among those to forget counts as the nearest of them.
    """
    if unwanted is None or batch.condition is None or len(next(iter(substitute.values()))) == 1:
        return under(batch, substitute)
    row = nearest(batch.condition, unwanted)
    return replace(batch, condition={name: value[row].to(batch.x0.device) for name, value in substitute.items()})


def nearest(some: Condition, among: Condition) -> Tensor:
    """The nearest of other conditions for each of some.

    Args:
        some: conditions of n samples.
        among: those to choose from.

    Returns:
        Indices, [n], int64, by the distance of all real numbers; of whole numbers alone, such as tokens, by how many differ.
    """
    if not any(each.is_floating_point() for each in some.values()):
        one, other = (
            torch.cat([each.reshape(len(each), -1).cpu() for each in these.values()], 1) for these in (some, among)
        )
        return (one[:, None] != other[None]).sum(2).argmin(1)

    def flat(condition: Condition) -> Tensor:
        return torch.cat(
            [each.reshape(len(each), -1).float().cpu() for each in condition.values() if each.is_floating_point()], 1
        )

    return torch.cdist(flat(some), flat(among), compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def other_condition(tools: Tools | None, batch: Batch) -> Condition | None:
    """c′, under which forget images are trained instead: that of what takes their place, else those of the retained images."""
    assert tools is not None, "prepare() comes first"
    return batch["retain"].condition if tools.substitute is None else tools.substitute


def drawn(batch: NoisedBatch, name: str) -> Tensor:
    """The uniform random numbers of a batch.

    Args:
        batch: noised images of a role.
        name: a key of the method's ``draws``.

    Returns:
        [batch] or the shape of the images, in [0, 1).

    Raises:
        InputError: if the batch lacks them.
    """
    if name not in batch.draws:
        raise InputError(
            f"batch: has no draws {name!r} (it has {sorted(batch.draws)}); the training loop makes them from the method's draws."
        )
    return batch.draws[name]


def matched(posterior: GaussianPosterior, denoiser: Denoiser) -> GaussianPosterior:
    """The posterior on the model's device and in its dtype, after a check that its parameters match the model's."""
    posterior.check_matches(dict(denoiser.network.named_parameters()))
    first = next(denoiser.network.parameters())
    return posterior.to(first.device, first.dtype)


def of_what_trains(posterior: GaussianPosterior, denoiser: Denoiser) -> Any:
    """:func:`matched`, restricted to what trains, for a method that adds the posterior's gradient.

    Args:
        posterior: of the original's weights.
        denoiser: the model that trains.

    Returns:
        The posterior of what trains; of low-rank corrections a :class:`vdu.posterior.low_rank.LowRankPosterior`.
    """
    first, trainable = next(denoiser.network.parameters()), denoiser.trainable()
    if corrected_layers(trainable):
        return low_rank_posterior(posterior.to(first.device, first.dtype), denoiser.network)
    found = matched(posterior, denoiser)
    return found if set(found.mean) <= set(trainable) else found.only(name for name in found.mean if name in trainable)


def _require_kind(item: Field[Any], value: Any) -> None:
    """Raise an error for an option whose default is a number or a switch and whose value is none, and for what is no posterior."""
    default = item.default
    if item.name == "schedule":
        require_kind("schedule", value, NoiseSchedule, "a vdu.NoiseSchedule")
    if item.name == "posterior" and value is not None and not isinstance(value, GaussianPosterior):
        raise InputError(f"posterior: got {shown(value)}; expected a GaussianPosterior (vdu.fit_posterior makes one).")
    if isinstance(default, bool):
        require_flags({item.name: value}, item.name)
    elif isinstance(default, int | float):
        require_ranges(
            {item.name: math.nan if value is None else value}, {item.name: WHOLE if isinstance(default, int) else ANY}
        )


def _plain(value: Any) -> Any:
    if isinstance(value, NoiseSchedule):
        return value.alpha_bars.tolist()
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return getattr(value, "sha256", value)  # a posterior has one
