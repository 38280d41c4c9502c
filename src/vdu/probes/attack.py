"""What the attacks on a condition share: a condition that is optimised, a model that is asked with it, and the counts.

    L(c) = E ‖ε − ε_θ(x_t, t, c)‖² / d        x_t from forget images, t uniform over 1 … T, θ fixed

Only the part of a condition that depends on the words is optimised: the tensors of real numbers in which the prompt differs from the
null condition (for Stable Diffusion ``encoder_hidden_states``, [tokens, width]; the pooled words too where the network is given them).

Not guaranteed: that a prompt could have this condition. The optimum may lie where the text encoder never goes, so an attacker
needs access to the network's input behind the text encoder.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from vdu.core.rng import derive_seed
from vdu.core.types import Condition, Denoiser, Losses
from vdu.data.images import ImageSet
from vdu.models.denoiser import DenoiserAround, PipelineDenoiser
from vdu.probes.context import ProbeContext
from vdu.probes.draws import choose, draw, evaluating, image_seeds, judged, measured, require_fit, sampler_words, share
from vdu.training.batches import NoisyImages, unflatten
from vdu.training.loop import Objective, TrainSettings, train

__all__ = ["AskedWith", "attacked", "optimised", "shown_images"]

N_SHOWN = 100  # forget images that the attacker has, at most


@dataclass(frozen=True)
class AskedWith(DenoiserAround):
    """A model that is asked with given conditions instead of prompts.

    Attributes:
        model: the model.
        conditions: n conditions, each tensor [n, …]; sample i is drawn under number seed modulo n.
        names: of the conditions.
    """

    model: PipelineDenoiser
    conditions: Condition
    names: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the conditions."""
        return self.names

    def labels_of(self, seeds: Sequence[int]) -> list[int]:
        """Seed modulo the number of conditions."""
        return [int(seed) % len(self.names) for seed in seeds]

    def condition(self, labels: Sequence[int | str | None]) -> Condition | None:
        """The conditions of these numbers; for None, the model's null condition."""
        if all(label is None for label in labels):
            return self.model.condition(labels)
        rows = torch.tensor([int(cast("int", label)) for label in labels])
        return {name: value[rows] for name, value in self.conditions.items()}


class _Conditions(nn.Module):
    """n conditions, some tensors of which train."""

    def __init__(self, start: Condition, words: Condition, null: Condition, device: torch.device) -> None:
        super().__init__()
        free = {
            name: nn.Parameter(value.to(device, torch.float32, copy=True))
            for name, value in start.items()
            if value.is_floating_point() and not torch.equal(words[name], null[name])
        }
        self.free = nn.ParameterDict(free)
        self.fixed = {name: value.to(device) for name, value in start.items() if name not in free}

    def forward(self, rows: Tensor) -> Condition:
        return {name: value[rows] for name, value in {**self.fixed, **self.free}.items()}


@dataclass(frozen=True)
class _Inverting(Objective):
    """The denoising loss as a function of the condition."""

    model: Denoiser

    def losses(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Losses:
        data = unflatten(dict(batch), self.model.schedule, self.model.schedule)["data"]
        assert data.condition is not None
        data = replace(data, condition=network(data.condition["row"]))
        return Losses({"mse": nn.functional.mse_loss(self.model.noise(data), data.noise)})


def optimised(
    case: ProbeContext,
    model: Denoiser,
    start: Condition,
    images: ImageSet,
    *,
    steps: int,
    learning_rate: float = 1e-2,
    batch_size: int = 16,
    title: str = "",
) -> dict[str, Tensor]:
    """Conditions under which a model denoises images better.

    Args:
        case: provides the seed.
        model: the model, which stays as it is; its first prompt names the concept.
        start: n conditions, each tensor [n, …].
        images: what they are to ask for.
        steps: of Adam.
        learning_rate: its step size, in units of the conditions.
        batch_size: images per step, at least; every step has an image for each condition, or as many for all of them.
        title: of the progress bar.

    Returns:
        The conditions, like ``start``, on the CPU.
    """
    first, n = next(model.network.parameters()), len(next(iter(start.values())))
    words, null = model.condition(list(model.class_names[:1])), model.condition([None])
    assert words is not None and null is not None
    conditions = _Conditions(start, words, null, first.device)
    size = n * -(-batch_size // n)
    uniform = torch.ones(len(model.schedule), dtype=torch.float64)
    batches = NoisyImages("data", images, size, uniform, derive_seed(case.seed, "attack", "batches"), model)

    def batch(step: int) -> dict[str, Tensor]:
        made = batches(step)
        kept = {name: made[f"data.{name}"] for name in ("x0", "noise", "index")}
        return {f"data.{name}": value for name, value in kept.items()} | {"data.condition.row": torch.arange(size) % n}

    settings = TrainSettings(steps, learning_rate, seed=derive_seed(case.seed, "attack", "training"))
    with evaluating(model.network), _frozen(model.network):
        train(conditions, _Inverting(model), batch, settings, progress=title if case.progress else None)
        found = conditions(torch.arange(n, device=first.device))
    return {name: value.detach().cpu() for name, value in found.items()}


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for a network's weights, for a while."""
    trained = [value for value in network.parameters() if value.requires_grad]
    for value in trained:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in trained:
            value.requires_grad_(True)


def attacked(
    case: ProbeContext,
    name: str,
    attack: Callable[[str, Denoiser], Denoiser],
    n_images: int,
    protocol: Mapping[str, Any],
) -> dict[str, Any]:
    """The rate of the concept before and after an attack, from the same noise.

    Args:
        case: models that are asked for the concept, judge, sampler and seed.
        name: of the attack.
        attack: (name of a model, the model) → the model as the attacker asks it.
        n_images: samples before and after.
        protocol: settings of the attack.

    Returns:
        ``rows``: one for the unlearned and one for the retrained model, each with ``start_count``, the count before; ``original``: its
        count without any attack.
    """
    started = time.monotonic()
    seeds = image_seeds(case.seed, name, n_images)
    plain = {
        who: int(judged(case, draw(case, model, seeds, f"{name}: {who}, before")).sum())
        for who, model in case.models.items()
    }
    rows = [
        {
            "model": who,
            "start_count": plain[who],
            **share(judged(case, draw(case, attack(who, model), seeds, f"{name}: {who}"))),
        }
        for who, model in case.models.items()
        if who != "original"
    ]
    original = {"forget_count": plain["original"], "n_images": n_images}
    return measured(started, {"sampler": sampler_words(case.sampler), **protocol}, rows=rows, original=original)


def shown_images(case: ProbeContext, name: str) -> ImageSet:
    """The forget images that an attacker has."""
    require_fit(case.forget, case.original, f"{name}, forget images")
    return choose(case.forget, N_SHOWN, case.seed, name, "images")
