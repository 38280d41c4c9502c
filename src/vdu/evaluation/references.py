"""What distances are measured against: real images, or the original's own samples without those of the forget class.

The *filtered original* is perfect forgetting without damage, and free: the original's samples, those thrown away that a
judge predicts forget. It is a row of every table, and the reference where there are no real images.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vdu.core.class_names import class_key
from vdu.core.errors import InputError
from vdu.core.processes import first_decides
from vdu.core.rng import generator
from vdu.core.types import Denoiser
from vdu.data.given import Images, as_images
from vdu.data.images import ImageSet
from vdu.data.overlap import without_copies, without_repeats
from vdu.data.sources import load_images
from vdu.diffusion.sampling import Sampler
from vdu.judges.judging import Judging
from vdu.replay.generated import cached_samples

__all__ = [
    "Source",
    "filtered_original",
    "first_images",
    "has_labels_of",
    "load_reference",
    "others_of",
    "reference_images",
    "split_at_random",
    "told_apart",
    "unshared_reference",
    "without_forget",
    "without_known_labels",
    "without_labels",
]

Source = Denoiser | ImageSet  # a model, or images that it drew


def first_images(source: Source, n_images: int, sampler: Sampler, seed: int, title: str) -> ImageSet:
    """The first images of a model's sequence of samples.

    Args:
        source: a model, which draws what is not in the cache; or images that were drawn with the same sampler and seed.
        n_images: how many.
        sampler: the protocol.
        seed: image i starts from noise drawn from (seed, i).
        title: names the model on the progress bar.

    Returns:
        As many images.

    Raises:
        InputError: if there are stored images, but fewer.
    """
    if not isinstance(source, ImageSet):
        return cached_samples(source, n_images, sampler, seed=seed, progress=title)[0]
    if len(source) < n_images:
        raise InputError(f"{title}: got {len(source)} stored images; expected at least {n_images}. Draw more.")
    return source.select(range(n_images))


def without_forget(images: ImageSet, judging: Judging) -> ImageSet:
    """The images that the filter leaves.

    Args:
        images: samples of the original.
        judging: its filter decides.

    Returns:
        The others, in order.
    """
    return images.select(~first_decides("filtering images", lambda: judging.filtered(images)))


def filtered_original(
    original: Source, first: ImageSet, judging: Judging, n_wanted: int, sampler: Sampler, seed: int
) -> ImageSet:
    """The original's samples that are not of the forget class, drawn until enough remain.

    Args:
        original: the model, or its stored images.
        first: the first of its samples.
        judging: its filter decides.
        n_wanted: how many to keep.
        sampler: the protocol.
        seed: as for ``first``.

    Returns:
        ``n_wanted`` images.

    Raises:
        InputError: if more than nine tenths of the samples are forget images.
    """
    kept = without_forget(first, judging).images
    n_drawn = len(first)
    while len(kept) < n_wanted:
        if n_drawn > 10 * n_wanted:
            raise InputError(
                f"filtered original: only {len(kept)} of {n_drawn} samples are not of the forget class; expected one in ten or more. "
                "Check --forget-class, and whether the judge suits this model (vdu sample shows its images); or give a model that "
                "makes other images too."
            )
        n_more = max(int((n_wanted - len(kept)) * 1.2), sampler.microbatch_size)
        drawn = first_images(original, n_drawn + n_more, sampler, seed, "filtered original")
        more = drawn.select(range(n_drawn, n_drawn + n_more))
        n_drawn += n_more
        kept = torch.cat([kept, without_forget(more, judging).images])
    return ImageSet(kept[:n_wanted], description="filtered original")


def split_at_random(features: Tensor, n_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two disjoint parts of a set, drawn at random: the distance of real images to real images.

    Args:
        features: of the set, [N, d].
        n_images: of the first part, at most half of the set.
        seed: of the draw.

    Returns:
        The first part and the rest.
    """
    order = torch.randperm(len(features), generator=generator(seed, "split"))
    n_first = min(n_images, len(features) // 2)
    return features[order[:n_first]], features[order[n_first:]]


def load_reference(source: Images | None, split: str, shape: tuple[int, int, int]) -> ImageSet | None:
    """Load the reference, before anything is drawn.

    Args:
        source: images, or where they are (:func:`vdu.data.given.as_images`); None for no reference.
        split: which part of a data set.
        shape: channels, height and width of the model.

    Returns:
        The images, or None if no reference is given.
    """
    if source is None:
        return None
    if isinstance(source, str | Path):
        return load_images(source, shape=shape, split=split)
    return as_images(source, name="reference", shape=shape)


def unshared_reference(images: ImageSet | None, forget: ImageSet) -> ImageSet | None:
    """The reference without copies of forget images, and with one copy of every other.

    Args:
        images: of :func:`load_reference`.
        forget: the forget set, of the same shape.

    Returns:
        The images, or None without a reference. A reference of forget images alone is refused with an ``InputError``.
    """
    if images is None:
        return None
    return without_repeats(without_copies(images, forget, "reference images", "forget images"), "reference images")


def reference_images(images: ImageSet, judging: Judging, names: list[str]) -> ImageSet:
    """Real images without the forget classes: removed by label where there are labels, else by the judge.

    Args:
        images: the reference.
        judging: the judge, where the images have no labels of these classes.
        names: the classes to leave out, if they have names.

    Returns:
        The images.
    """
    if has_labels_of(images, names):
        return without_labels(images, names)
    return images.select(~judging.finds_forget(images), f"{images.description} without forget images (by the judge)")


def has_labels_of(images: ImageSet, names: list[str]) -> bool:
    """Whether images have labels that say which of them are of some classes."""
    return images.labels is not None and bool(names) and bool(_matching(images.class_names or (), names))


def without_known_labels(images: ImageSet | None, names: Sequence[str]) -> ImageSet | None:
    """The images without those whose labels are of some classes, as far as they have such labels.

    Args:
        images: the images, or None.
        names: the classes to leave out.

    Returns:
        The others; the same object if that is all of them.
    """
    known = [] if images is None else [name for name in names if has_labels_of(images, [name])]
    return without_labels(images, known) if images is not None and known else images


def others_of(names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The names that are not, whatever their spelling, among some classes."""
    return [name for name in names if class_key(name) not in {*map(class_key, classes)}]


def told_apart(known: Sequence[str], some: Sequence[str], others: Sequence[str]) -> bool:
    """Whether all classes of both lists are among the known ones, and they are not the same."""
    found = [_matching(known, each) for each in (some, others)]
    return all(found) and found[0] != found[1]


def _matching(known: Sequence[str], names: Sequence[str]) -> list[int]:
    """The classes of these names: exactly, or else without what does not count; none if one of them is missing."""
    if set(names) <= set(known):
        return [i for i, name in enumerate(known) if name in names]
    wanted = {class_key(each) for each in names}
    return (
        [i for i, name in enumerate(known) if class_key(name) in wanted] if wanted <= {*map(class_key, known)} else []
    )


def without_labels(images: ImageSet, names: list[str]) -> ImageSet:
    """The images whose labels are not of the classes.

    Args:
        images: with :func:`has_labels_of` these.
        names: the classes to leave out.

    Returns:
        The others; the same object if that is all of them.
    """
    assert images.labels is not None
    left_out = torch.isin(images.labels, torch.tensor(_matching(images.class_names or (), names), dtype=torch.int64))
    if not left_out.any():
        return images
    return images.select(~left_out, f"{images.description} without {', '.join(names)} (by label)")
