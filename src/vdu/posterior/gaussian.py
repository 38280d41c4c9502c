"""A diagonal Gaussian over a network's parameters, the result of every posterior estimator.

    Q(θ) = ∏ᵢ N(θᵢ; μᵢ, σᵢ²)            penalty(θ) = Σᵢ (θᵢ − μᵢ)² / (2σᵢ²)            ∇ᵢ = (θᵢ − μᵢ) / σᵢ²

The penalty is the second term of the VDU loss (Eq. 3) and its gradient is added in closed form: no
graph is built. Only mean and variance are held in memory. Names are in alphabetical order, so that
sums, hashes and draws are the same before and after the file.

On disk: one safetensors file, float32, keys ``mean/<name>`` and ``variance/<name>``, and one JSON record in its
metadata. A file of another format, or one with NaN or a variance that is not positive, raises an error.

Not guaranteed: that the mean is a working network (see :func:`vdu.posterior.calibrate.mean_is_usable`), and that two
estimators give variances of the same scale (see :func:`vdu.posterior.calibrate.calibrate_temperature`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from vdu.core.checks import hash_parameters, require_finite, require_generator
from vdu.core.errors import InputError, shown
from vdu.core.paths import given_file, given_path
from vdu.core.ranges import FINITE, POSITIVE, RANGES, plain_number, require_kind, require_number, require_ranges
from vdu.core.records import sha256_bytes
from vdu.core.types import NamedTensors
from vdu.posterior.names import require_same, require_usable_variance, select_names
from vdu.posterior.sealed import record_text
from vdu.posterior.storage import flatten, read_posterior, write_posterior

__all__ = ["GaussianPosterior", "normal_like"]


class _Own(dict[str, Tensor]):
    """Tensors that posteriors alone hold, so that they need no copy."""


def normal_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal draws in the shape, dtype and place of a tensor.

    Args:
        tensor: whose shape, dtype and device the draws take.
        generator: the source; the draws are made on its device, so that they do not depend on the tensor's.

    Returns:
        z ~ N(0, 1).
    """
    return torch.randn(tensor.shape, generator=generator, device=generator.device, dtype=tensor.dtype).to(tensor.device)


def _named(given: Any, name: str) -> dict[str, Tensor]:
    """Named tensors from a mapping or from pairs.

    Args:
        given: name → tensor, or (name, tensor) one after another.
        name: the argument, for messages.

    Returns:
        A new dictionary.

    Raises:
        InputError: if it is neither.
    """
    try:
        found = dict(given)
    except (TypeError, ValueError):
        found = None
    if found is None or not all(isinstance(each, str) and isinstance(found[each], Tensor) for each in found):
        raise InputError(f"{name}: got {shown(given)}; expected tensors by name, such as network.named_parameters().")
    return found


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (OverflowError, RuntimeError, TypeError, ValueError):
        return False


def _require_by_name(name: str, values: Any, holds: Callable[[Any], bool], words: str) -> None:
    """Raise an error for anything but a mapping of texts to such values."""
    if not isinstance(values, Mapping):
        raise InputError(f"posterior record: {name}: got {shown(values)}; expected {words}.")
    for key, value in values.items():
        if not isinstance(key, str) or not holds(value):
            raise InputError(
                f"posterior record: {name}: {shown(key)} is {shown(value)}; expected {words}. Check the input."
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class GaussianPosterior:
    """Mean and variance per named parameter, and their provenance.

    Args:
        mean: μ, name → tensor of any shape; copied, not shared.
        variance: σ² > 0, the same names and shapes; copied, too.
        estimator: name of the estimator, for example ``"ensemble"``.
        n_members: number of ensemble members, if applicable.
        prior_precision: precision of the prior that bounds σ², if there is one.
        temperature: product of all factors by which the variance has been scaled since the estimator made it.
        n_train: size of the training set that the variance represents, if the estimator uses it.
        name_filter: regular expression (``re.search``) of the parameters it covers; None for all.
        sources: its inputs, name → SHA-256.
        extras: further numbers for the record (cost, entries on the floor, …).

    Raises:
        InputError: if the names or shapes of mean and variance differ, or a number is not finite or not positive.

    Examples:
        >>> posterior = GaussianPosterior(
        ...     mean={"w": torch.zeros(2)}, variance={"w": torch.tensor([1.0, 4.0])}, estimator="example"
        ... )
        >>> float(posterior.penalty({"w": torch.tensor([1.0, 4.0])}))  # (1²/1 + 4²/4) / 2
        2.5
    """

    mean: dict[str, Tensor] = field(repr=False)
    variance: dict[str, Tensor] = field(repr=False)
    estimator: str
    n_members: int | None = None
    prior_precision: float | None = None
    temperature: float = 1.0
    n_train: int | None = None
    name_filter: str | None = None
    sources: dict[str, str] = field(default_factory=dict)
    extras: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in ("mean", "variance"):
            tensors = getattr(self, kind)
            if not isinstance(tensors, Mapping) or not all(isinstance(each, Tensor) for each in tensors.values()):
                raise InputError(
                    f"posterior {kind}: got {shown(tensors)}; expected tensors by the names of the parameters."
                )
        require_kind("estimator", self.estimator, str, "a name")
        require_same("posterior variance", self.variance, self.mean)
        for kind in ("mean", "variance"):
            tensors = getattr(self, kind)
            own = isinstance(tensors, _Own)  # else whoever trains the network they came from would change them
            copies = {name: tensors[name] if own else tensors[name].detach().clone() for name in sorted(tensors)}
            object.__setattr__(self, kind, _Own(copies))
        for name, mean in self.mean.items():
            require_finite(f"posterior mean of {name}", mean)
            require_usable_variance(name, self.variance[name])
        require_kind("name_filter", self.name_filter, str, "a regular expression, as text")
        _require_by_name("sources", self.sources, lambda value: isinstance(value, str), "hashes, as texts by name")
        _require_by_name("extras", self.extras, _is_finite, "finite numbers by name")
        object.__setattr__(self, "extras", {name: float(value) for name, value in self.extras.items()})
        require_number("posterior record: temperature", self.temperature, POSITIVE)
        object.__setattr__(self, "temperature", plain_number(self.temperature))
        require_ranges(vars(self), {name: RANGES[name] for name in ("n_members", "n_train", "prior_precision")})

    # The penalty and its gradient

    def penalty(self, parameters: NamedTensors) -> Tensor:
        """Σ (θ − μ)² / (2σ²), differentiable, summed in float64 because it adds millions of terms of all sizes.

        Args:
            parameters: θ, with at least the posterior's names.

        Returns:
            A float64 scalar.
        """
        terms = [
            ((theta.double() - mean.double()).square() / self.variance[name].double()).sum() / 2  # Eq. 3, second term
            for (name, mean), theta in zip(self.mean.items(), self._matching(parameters), strict=True)
        ]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def add_gradient(self, parameters: Mapping[str, nn.Parameter], scale: float) -> Tensor:
        """Add scale · (θ − μ)/σ² to every ``.grad`` (made if it is None), without a graph.

        Args:
            parameters: θ, with at least the posterior's names, on the posterior's device.
            scale: the factor before the penalty, for example γ.

        Returns:
            The unscaled penalty Σ (θ − μ)² / (2σ²), a float64 scalar: a by-product, for the log.
        """
        require_number("scale", scale, FINITE)
        terms = []
        # tensor by tensor: the temporaries are of the size of one tensor, not of the whole network
        for theta, mean, variance in zip(
            self._matching(parameters), self.mean.values(), self.variance.values(), strict=True
        ):
            delta = theta - mean
            gradient = delta / variance  # Eq. 3, second term, differentiated
            theta.grad = gradient * scale if theta.grad is None else theta.grad.add_(gradient, alpha=scale)
            terms.append(delta.mul_(gradient).sum(dtype=torch.float64))
        return torch.stack(terms).sum() / 2

    def _matching(self, parameters: Mapping[str, Any]) -> list[Any]:
        """The posterior's parameters in its own order.

        Args:
            parameters: name → anything.

        Returns:
            One value per name of the posterior.

        Raises:
            InputError: if a name is missing.
        """
        if not isinstance(parameters, Mapping):
            parameters = _named(parameters, "parameters")
        missing = [name for name in self.mean if name not in parameters]
        if missing:
            raise InputError(
                f"parameters: {len(missing)} of the posterior's {len(self.mean)} names missing, first {missing[:5]}. "
                "Give the named parameters of the network the posterior was made for, unwrapped."
            )
        return [parameters[name] for name in self.mean]

    # Other posteriors and draws

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same posterior on another device or in another dtype.

        Args:
            device: the device; None keeps it.
            dtype: floating dtype; None keeps it.

        Returns:
            A new posterior.

        Raises:
            InputError: if there is no such device or dtype.
        """
        require_kind("dtype", dtype, torch.dtype, "a torch.dtype")
        try:
            place = None if device is None else torch.device(device)
        except (RuntimeError, TypeError, ValueError):
            raise InputError(
                f"device: got {shown(device)}; expected a torch.device, or its name, such as 'cuda'."
            ) from None
        return replace(
            self,
            mean=_Own({name: tensor.to(place, dtype) for name, tensor in self.mean.items()}),
            variance=_Own({name: tensor.to(place, dtype) for name, tensor in self.variance.items()}),
        )

    def with_mean(self, mean: NamedTensors) -> Self:
        """The same variances around another mean, for example θ* if μ* is not a working network.

        Args:
            mean: named parameters of the network; copied, not shared.

        Returns:
            A new posterior.
        """
        chosen = self._covered_part(_named(mean, "mean"))
        require_same("new mean", chosen, self.mean)
        copies = {name: tensor.detach().to(self.mean[name], copy=True) for name, tensor in chosen.items()}
        return replace(self, mean=_Own(copies))

    def only(self, names: Iterable[str]) -> Self:
        """The same posterior of fewer parameters.

        Args:
            names: of those to keep; all are covered.

        Returns:
            A new posterior that shares the tensors.

        Raises:
            InputError: if a name is not covered.
        """
        if isinstance(names, str | Tensor) or not isinstance(names, Iterable):
            raise InputError(f"names: got {shown(names)}; expected a list of names of parameters.")
        chosen = set(names)
        if unknown := sorted(map(str, chosen - set(self.mean))):
            raise InputError(
                f"names: {len(unknown)} of {len(chosen)} are not among the posterior's {len(self.mean)} parameters, first {unknown[:3]}; "
                "expected names that it covers (those of its mean)."
            )
        mean, variance = (
            _Own({name: each[name] for name in each if name in chosen}) for each in (self.mean, self.variance)
        )
        return replace(self, mean=mean, variance=variance)

    def scaled(self, temperature: float) -> Self:
        """The posterior with variance τσ²; τ is multiplied into the record.

        Args:
            temperature: τ > 0, finite.

        Returns:
            A new posterior.
        """
        require_number("temperature", temperature, POSITIVE)
        variance = {name: tensor * temperature for name, tensor in self.variance.items()}
        return replace(self, variance=_Own(variance), temperature=self.temperature * temperature)

    def sample(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One draw of the weights, μ + σz.

        Args:
            generator: the only source of z ~ N(0, 1).

        Returns:
            name → tensor, new.
        """
        require_generator(generator)
        return {
            name: mean + self.variance[name].sqrt() * normal_like(mean, generator) for name, mean in self.mean.items()
        }

    # Identity and files

    def check_matches(self, named_parameters: NamedTensors | Iterable[tuple[str, Tensor]]) -> None:
        """Raise an error for a network whose parameters differ in name or shape from those that the posterior covers.

        Parameters excluded by the name filter, and frozen ones that the posterior does not cover, are ignored.

        Args:
            named_parameters: ``network.named_parameters()`` or a mapping.
        """
        require_same("network", self._covered_part(_named(named_parameters, "named_parameters")), self.mean)

    def _covered_part(self, named: NamedTensors) -> dict[str, Tensor]:
        return {
            name: tensor
            for name, tensor in select_names(named, self.name_filter).items()
            if name in self.mean or tensor.requires_grad or not isinstance(tensor, nn.Parameter)
        }

    @property
    def sha256(self) -> str:
        """Hash of mean, variance (as float32) and record: equal before saving and after loading."""
        tensors = hash_parameters(flatten(self.mean, self.variance))
        return sha256_bytes((tensors + record_text(self._record())).encode())

    def save(self, path: Path | str) -> None:
        """Write the posterior atomically as safetensors, float32."""
        write_posterior(given_file(path), self.mean, self.variance, self._record())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file written by :meth:`save`, on the CPU; unexpected content raises an error.

        Args:
            path: the file.

        Returns:
            The posterior.
        """
        return cls(
            **read_posterior(given_path(path, "posterior"), {item.name for item in fields(cls)} - {"mean", "variance"})
        )

    def _record(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("mean", "variance")}
