"""Batches that depend on the seed and the step alone: images, noise and noise levels.

This is the only place where images become samples of the model: they are encoded into its latent space, once for all steps, and
their labels become its condition. A batch consists of flat tensors (``role.x0``, ``role.noise``, ``role.index``,
``role.condition.NAME``), so that the loop can split it.

Images are shuffled per epoch: every image occurs once per epoch, in an order drawn from (seed, "epoch", number). Noise and timestep
indices of step k come from (seed, "noise", k), and further draws of a method from (seed, "step", k, 0). Everything is drawn for
the whole step, so that it does not depend on the number of processes or micro-batches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from vdu.core.class_names import composed, require_clear, require_own_name
from vdu.core.errors import InputError
from vdu.core.processes import n_launched
from vdu.core.progress import bar
from vdu.core.rng import generator
from vdu.core.types import Condition, Denoiser, NoisedBatch
from vdu.data.images import ImageSet, to_float
from vdu.diffusion.schedule import NoiseSchedule, noised_batch

__all__ = [
    "ENCODING",
    "Draws",
    "NoisyImages",
    "UniformImages",
    "condition_of",
    "deal",
    "encoded",
    "labels_for",
    "own_space",
    "require_captions",
    "require_divisible",
    "role_size",
    "together",
    "unflatten",
]

ENCODING = "encoding images"  # title of the bar
AT_ONCE = 64  # images that are on the network's device together, for one visit of the autoencoder


@lru_cache(maxsize=8)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator(seed, "epoch", epoch))


def deal(n: int, batch_size: int, seed: int, step: int) -> Tensor:
    """The images of one step.

    Args:
        n: number of images.
        batch_size: images per step.
        seed: seeds the order of every epoch.
        step: counted from 0.

    Returns:
        Indices, [batch_size], int64.

    Examples:
        >>> sorted(torch.cat([deal(6, 2, 0, step) for step in range(3)]).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    position = torch.arange(step * batch_size, (step + 1) * batch_size)
    parts = [_order(n, seed, int(epoch))[position[position // n == epoch] % n] for epoch in (position // n).unique()]
    return torch.cat(parts)


def role_size(batch_size: int, share: float) -> int:
    """Images of a role per step, at least one.

    Args:
        batch_size: the setting.
        share: of the role (``Method.batch_shares``), 1 for most.

    Returns:
        Their number.
    """
    return max(1, round(batch_size * share))


def require_divisible(batch_size: int, accumulation: int, shares: Mapping[str, float] = MappingProxyType({})) -> None:
    """Raise an error for a batch size that does not split into micro-batches, before anything is made.

    Args:
        batch_size: images per step, over all processes.
        accumulation: gradient accumulation steps.
        shares: of the roles whose batches are smaller: name → fraction.

    Raises:
        InputError: if the parts would not be equal, with the nearest sizes that would do.
    """
    processes = n_launched()
    parts, all_shares = accumulation * processes, {"": 1.0, **shares}

    def fits(size: int) -> bool:
        return all(role_size(size, share) % parts == 0 for share in all_shares.values())

    if fits(batch_size):
        return
    lower, higher = range(batch_size - 1, 0, -1), range(batch_size + 1, batch_size + 64 * parts)
    found = [next(filter(fits, sizes), None) for sizes in (lower, higher)]
    near = " or ".join(str(size) for size in found if size is not None) or f"a multiple of {parts}"
    sizes = ", ".join(
        f"{role_size(batch_size, share)} {name} images" for name, share in all_shares.items() if name and share != 1
    )
    over = f"{accumulation} gradient accumulation steps" + (f" × {processes} processes" if processes > 1 else "")
    raise InputError(
        f"batch_size: got {batch_size}{f' ({sizes})' if sizes else ''}, which {over} do not divide; choose {near}, or another number of "
        "steps (--gradient-accumulation-steps)."
    )


@dataclass(frozen=True)
class NoisyImages:
    """Images of one role, drawn and noised step by step; a latent model encodes them once, when the first step is asked for.

    Attributes:
        role: the name in the batch, for example "forget".
        images: the images.
        batch_size: images per step.
        draw_weights: relative probability of each timestep index of the schedule, [T], float64.
        seed: seeds everything.
        denoiser: the trained model, which encodes the images and maps their labels to conditions.
        label_dropout: the probability with which a label becomes the null condition, [0, 1).

    Raises:
        InputError: if there are no images, or the batch size is not positive.
    """

    role: str
    images: ImageSet
    batch_size: int
    draw_weights: Tensor
    seed: int
    denoiser: Denoiser
    label_dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not len(self.images):
            raise InputError(
                f"{self.role}: got {len(self.images)} images and a batch size of {self.batch_size}; expected at least one of each."
            )

    @cached_property
    def _x0(self) -> Callable[[Tensor], Tensor]:
        return own_space(self.denoiser, self.images)  # not earlier: the loop moves the network, and images follow it

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Tensors ``role.x0``, ``role.noise`` and ``role.index`` of one step."""
        chosen = deal(len(self.images), self.batch_size, self.seed, step)
        made = _noised(self.role, self._x0(chosen), self.draw_weights, generator(self.seed, "noise", step))
        if not self.denoiser.class_names:
            return made
        labels = labels_for(self.denoiser, self.images, chosen, self.role)
        dropped = torch.rand(len(labels), generator=generator(self.seed, "label dropout", step)) < self.label_dropout
        condition = self.denoiser.condition([
            None if drop else label for label, drop in zip(labels, dropped, strict=True)
        ])
        return made | {f"{self.role}.condition.{name}": value for name, value in (condition or {}).items()}


@dataclass(frozen=True)
class UniformImages:
    """Images of uniform noise in [−1, 1], drawn and noised step by step: the surrogates of Selective Amnesia.

    Attributes:
        role: the name in the batch, for example "surrogate".
        shape: channels, height and width of an image.
        batch_size: images per step.
        draw_weights: relative probability of each timestep index of the schedule, [T], float64.
        seed: seeds everything.
        denoiser: the model that is trained.
        labels: the labels of the surrogates, assigned in turn from step to step; none for an unconditional model.
    """

    role: str
    shape: tuple[int, ...]
    batch_size: int
    draw_weights: Tensor
    seed: int
    denoiser: Denoiser
    labels: tuple[Any, ...] = ()

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Tensors ``role.x0``, ``role.noise`` and ``role.index`` of one step."""
        source = generator(self.seed, "noise", step)
        images = 2 * torch.rand(self.batch_size, *self.shape, generator=source, dtype=torch.float32) - 1
        made = _noised(self.role, encoded(self.denoiser, images), self.draw_weights, source)
        if not self.denoiser.class_names:
            return made
        if not self.labels:
            raise InputError(f"{self.role}: a class-conditional model needs the label to forget, got none.")
        first = step * self.batch_size
        condition = self.denoiser.condition([
            self.labels[(first + i) % len(self.labels)] for i in range(self.batch_size)
        ])
        return made | {f"{self.role}.condition.{name}": value for name, value in (condition or {}).items()}


@torch.no_grad()
def encoded(denoiser: Denoiser, images: Tensor, *, progress: str | None = None) -> Tensor:
    """Images in the model's own space, on the CPU; only some at a time are on the network's device.

    Args:
        denoiser: the model.
        images: [n, channels, height, width], 8-bit or in [−1, 1], on the CPU.
        progress: title of the progress bar of a latent model; None shows none.

    Returns:
        The images themselves in [−1, 1] for a pixel model, else latents, [n, …].
    """
    if not denoiser.is_latent:
        return _floats(images)
    device = next(denoiser.network.parameters()).device
    made = []
    with bar(progress or "", len(images), "image", shown=progress is not None) as done:
        for some in images.split(AT_ONCE):
            made.append(denoiser.encode(_floats(some).to(device)).cpu())
            done.update(len(some))
    return torch.cat(made)


def own_space(denoiser: Denoiser, images: ImageSet) -> Callable[[Tensor], Tensor]:
    """Images in the model's own space, to choose from again and again: those of a latent model are encoded here, once.

    Args:
        denoiser: the model.
        images: all that may be chosen.

    Returns:
        Indices, [n], int64 → the images, or latents, as by :func:`encoded`.
    """
    return encoded(denoiser, images.images, progress=ENCODING).__getitem__ if denoiser.is_latent else images.floats


def labels_for(denoiser: Denoiser, images: ImageSet, chosen: Tensor, what: str) -> list[Any]:
    """The model's class of each image, matched by name if both have names; for a text-to-image model its caption.

    Args:
        denoiser: a class-conditional or text-to-image model.
        images: with labels; their class names are the captions of a text-to-image model.
        chosen: indices of the images, [n], int64.
        what: name of the images in messages.

    Returns:
        One class index of the model per chosen image. For a text-to-image model one caption each, or None for images without labels.

    Raises:
        InputError: if the images have no labels, a class that the model lacks, a name of several of its classes, or labels without names
            that may be numbers or names.
    """
    if denoiser.takes_prompts:
        return _captions(images, chosen, what)
    if images.labels is None:
        raise InputError(
            f"{what}: the model is class-conditional, and these images have no labels; expected labelled images (class folders, or a "
            "data set; for images to forget, --forget-label names their class)."
        )
    labels = images.labels[chosen].tolist()
    if images.class_names is None:
        require_clear(sorted(set(labels)), denoiser.class_names, what)
        return labels
    names, theirs = [*map(composed, denoiser.class_names)], [*map(composed, images.class_names)]
    if getattr(denoiser, "numbered", False):
        _require_own_numbers(names, theirs, what)
    for label in sorted(set(labels)):
        require_own_name(theirs[label], denoiser.shared_names, names, what)
    unknown = sorted({theirs[label] for label in labels} - set(names))
    if unknown:
        raise InputError(
            f"{what}: images of class {unknown[0]!r}, which the model lacks; its classes are {', '.join(names[:20])}."
        )
    return [names.index(theirs[label]) for label in labels]


def _require_own_numbers(names: Sequence[str], theirs: Sequence[str], what: str) -> None:
    """Refuse images whose classes have numbers for names, but not those of a model that names no classes."""
    lacking, shared = ([each for each in theirs if (each in names) is known] for known in (False, True))
    if lacking and shared:
        raise InputError(
            f"{what}: has a class {lacking[0]!r}, which the model lacks. The model does not name its classes 0 to {len(names) - 1}, so the "
            f"class {shared[0]!r} of the images need not be the model's of this number. Name them, in their order: "
            "pipeline.unet.register_to_config(class_names=[…]), then pipeline.save_pretrained(…)."
        )


def require_captions(denoiser: Denoiser, images: ImageSet, what: str, expected: str) -> None:
    """Refuse images without captions for the training of a text-to-image model.

    Args:
        denoiser: any model.
        images: to train on.
        what: name of the images in messages.
        expected: what to give, for the message.

    Raises:
        InputError: if the model is asked in words and the images have none.
    """
    if denoiser.takes_prompts and images.labels is None:
        raise InputError(
            f"{what}: this model is asked in words, and these images have no captions, so that they would be trained under the empty "
            f"prompt; expected {expected}."
        )


def _captions(images: ImageSet, chosen: Tensor, what: str) -> list[str | None]:
    if images.labels is None:
        return [None] * len(chosen)
    if images.class_names is None:
        raise InputError(
            f"{what}: the images have labels without names; expected captions, since the model is asked in words."
        )
    return [images.class_names[label] for label in images.labels[chosen].tolist()]


def _floats(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else to_float(images)


def _noised(role: str, x0: Tensor, draw_weights: Tensor, source: torch.Generator) -> dict[str, Tensor]:
    noise = torch.randn(x0.shape, generator=source, dtype=x0.dtype)
    index = torch.multinomial(draw_weights, len(x0), replacement=True, generator=source)
    return {f"{role}.x0": x0, f"{role}.noise": noise, f"{role}.index": index}


@dataclass(frozen=True)
class Draws:
    """Uniform random numbers in [0, 1) for a method's images, drawn step by step.

    Attributes:
        wanted: role → name → "image" (one number per image) or "element" (one per element of the image).
        sizes: images of each role per step.
        shape: channels, height and width of an image.
        seed: seeds everything.

    Raises:
        InputError: if a role has no images in the batch, or the kind of a draw is unknown.
    """

    wanted: Mapping[str, Mapping[str, str]]
    sizes: Mapping[str, int]
    shape: tuple[int, ...]
    seed: int

    def __post_init__(self) -> None:
        for role, named in self.wanted.items():
            if role not in self.sizes or not set(named.values()) <= {"image", "element"}:
                raise InputError(
                    f"draws: got {dict(named)} for {role!r}; expected a role of the method's needs ({', '.join(self.sizes)}), "
                    "and for each name 'image' or 'element'."
                )

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Tensors ``role.draws.name`` of one step, [batch] or [batch, channels, height, width], float32."""
        source = generator(self.seed, "step", step, 0)
        drawn = {}
        for role, named in sorted(self.wanted.items()):
            for name, kind in sorted(named.items()):
                shape = self.shape if kind == "element" else ()
                drawn[f"{role}.draws.{name}"] = torch.rand(self.sizes[role], *shape, generator=source)
        return drawn


def together(makers: Sequence[Callable[[int], dict[str, Tensor]]]) -> Callable[[int], dict[str, Tensor]]:
    """Combine the batch makers of several roles into one."""
    return lambda step: {name: value for maker in makers for name, value in maker(step).items()}


def condition_of(denoiser: Denoiser, images: ImageSet, chosen: Tensor, what: str) -> Condition | None:
    """The condition of some images; arguments as for :func:`labels_for`, and None for an unconditional model."""
    return denoiser.condition(labels_for(denoiser, images, chosen, what)) if denoiser.class_names else None


def unflatten(batch: dict[str, Tensor], schedule: NoiseSchedule, own: NoiseSchedule) -> dict[str, NoisedBatch]:
    """The tensors of a micro-batch as one :class:`vdu.core.types.NoisedBatch` per role."""
    noised = {}
    for role in sorted({name.split(".", 1)[0] for name in batch}):
        parts = {name.removeprefix(f"{role}."): value for name, value in batch.items() if name.startswith(f"{role}.")}
        further = {
            kind: {name.removeprefix(f"{kind}."): value for name, value in parts.items() if name.startswith(f"{kind}.")}
            for kind in ("condition", "draws")
        }
        noised[role] = noised_batch(
            parts["x0"], parts["index"], parts["noise"], schedule, own, condition=further["condition"] or None,
            draws=further["draws"], target=parts.get("target"),
        )  # fmt: skip
    return noised
