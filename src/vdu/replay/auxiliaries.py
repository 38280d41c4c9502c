"""Auxiliary data and models for a method, made from the original model, its generated samples and the forget set alone.

    generated samples S ─ selection ─┬─ S_r "retain" (negatives)     S_f "own_forget" (positives)           classifier
                                     └─ self-trained model ε_s (S, ᾱ in A_w)     forget model ε_f (D_f)     teacher ε₀

Only what the method lists in ``needs`` and ``uses`` is made. If fewer than 10 generated samples match the forget set, the forget
set itself is used as S_f.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from vdu.core.counter import EvaluationCounter
from vdu.core.rng import derive_seed, isolated_global
from vdu.core.types import Denoiser, Method, Tools
from vdu.data.images import ImageSet, to_uint8
from vdu.diffusion.sampling import Sampler, sample
from vdu.models.identity import weights_sha256
from vdu.replay.auxiliary_models import FORGET_MODEL, cached_self_model, fine_tuned_copy, self_model_settings
from vdu.replay.generated import SHARED_SEED, cached_samples, image_seeds
from vdu.replay.held_out import HeldOut, hold_out
from vdu.replay.noise_classifier import NoiseClassifier
from vdu.replay.selection import (
    BATCH_SIZE,
    FEWEST_LIKE_FORGET,
    SCORE_STEPS,
    SCORED_AT,
    STEPS,
    Resemblance,
    require_enough,
    resemblance,
)
from vdu.training.batches import ENCODING, condition_of, encoded, labels_for

__all__ = ["Auxiliaries", "auxiliary_work", "make_auxiliaries", "needs_selection", "selection_work"]

CLASSIFIER_WIDTH, SELF_MODEL_STEPS = 32, 100  # for methods that do not choose
N_INSTEAD = 256  # images of what takes the place of the concept
LEAST_SHARE = 0.025  # of a denoiser's time, which the smallest classifier takes on a CPU (width 16, 28×28)


@dataclass(frozen=True)
class Auxiliaries:
    """A method's image sets and tools, and their cost.

    Attributes:
        sets: images by role.
        tools: for :meth:`vdu.core.types.Method.prepare`.
        record: plain values for ``run.json``.
        evaluations: network evaluations of the denoiser, and of small classifiers in its equivalents by FLOPs.
        reused: those of them that were spent earlier: their results came from the cache.
        forget_seeds: noise seeds of the generated samples that match the forget set.
        judged: the selection among the generated samples, or None.
        sampler: the sampler that drew them.
        held_out: seeds for the stopping rule; none without one.
    """

    sets: Mapping[str, ImageSet | None]
    tools: Tools
    record: dict[str, Any] = field(default_factory=dict)
    evaluations: int = 0
    reused: int = 0
    forget_seeds: tuple[int, ...] = ()
    judged: Resemblance | None = None
    sampler: Sampler | None = None
    held_out: HeldOut = field(default_factory=HeldOut)

    @property
    def classifier_share(self) -> float:
        """FLOPs of the small classifier for one image, as a fraction of the denoiser's; 0 without one."""
        return self.record.get("resemblance", {}).get("classifier_flops_share", 0.0)


def needs_selection(method: Method, has_retain: bool) -> bool:
    """Whether a method needs the selection among generated samples, which requires a minimum number of images."""
    wanted = set(method.needs) | set(method.uses)
    return bool(wanted & {"own_forget", "classifier", "retained"}) or ("retain" in wanted and not has_retain)


def auxiliary_work(
    original: Denoiser,
    method: Method,
    *,
    has_retain: bool,
    n_own_samples: int,
    sampler: Sampler,
    holds_out: bool = False,
) -> dict[str, tuple[float, float]]:
    """The stages of :func:`make_auxiliaries`, for :func:`vdu.core.progress.expect`.

    Args:
        original: the model.
        method: as for :func:`make_auxiliaries`.
        has_retain: whether there are real images to keep.
        n_own_samples: number of generated samples.
        sampler: their sampler.
        holds_out: as for :func:`make_auxiliaries`.

    Returns:
        Title of the progress bar → number of items, network evaluations of each.
    """
    wanted, sorts = set(method.needs) | set(method.uses), needs_selection(method, has_retain)
    stages: dict[str, tuple[float, float]] = {}
    if sorts or "self_model" in wanted:
        stages["generated samples"] = (n_own_samples, sampler.evaluations(original))
    if sorts:
        width = getattr(method, "classifier_width", CLASSIFIER_WIDTH)
        stages |= selection_work(original, width, by_label=bool(original.class_names))
        if holds_out:
            stages["held-out samples"] = (
                n_own_samples / 2,
                sampler.evaluations(original),
            )  # at most twice as many, if few are unwanted
    if "self_model" in wanted:
        how = self_model_settings(getattr(method, "self_model_steps", SELF_MODEL_STEPS))
        stages["self-trained model"] = (how["steps"], 3 * how["batch_size"])
    if "instead" in wanted:
        stages["images instead"] = (N_INSTEAD, sampler.evaluations(original))
    if "forget_model" in wanted:
        stages["forget model"] = (FORGET_MODEL["steps"], 3 * FORGET_MODEL["batch_size"])
    return stages


def selection_work(
    original: Denoiser, width: int = CLASSIFIER_WIDTH, *, by_label: bool = False
) -> dict[str, tuple[float, float]]:
    """The stages of :func:`vdu.replay.selection.resemblance`, likewise.

    Args:
        original: the model.
        width: of the classifiers.
        by_label: whether the model's labels select the samples.

    Returns:
        Title → number of steps, network evaluations of each.
    """
    with isolated_global(0):
        share = _flops(NoiseClassifier(original.latent_shape, width=width), original)
    step = 3 * 2 * BATCH_SIZE * max(share, LEAST_SHARE)
    halves: dict[str, tuple[float, float]] = {} if by_label else {"selection": (2 * SCORE_STEPS, step)}
    return halves | {"classifier of noised images": (STEPS, step)}


def make_auxiliaries(
    original: Denoiser,
    method: Method,
    forget: ImageSet,
    *,
    retain: ImageSet | None = None,
    sampler: Sampler,
    n_own_samples: int,
    seed: int,
    device: torch.device | None = None,
    force: bool = False,
    holds_out: bool = False,
    teacher: Denoiser | None = None,
    instead: Any = None,
    forgotten: Sequence[str] = (),
    conditions: Mapping[str, Any] = MappingProxyType({}),
    say: Any = None,
) -> Auxiliaries:
    """Make the auxiliary data and models of a method.

    Args:
        original: the model; left untouched.
        method: its ``needs`` and ``uses`` determine what is made.
        forget: the forget set.
        retain: real images to keep; they take the place of S_r.
        sampler: the sampler for generated samples.
        n_own_samples: number of generated samples.
        seed: seeds the classifiers and the forget model; all seeds share the generated samples and the self-trained model.
        device: where to draw samples and to place the result.
        force: see :func:`vdu.replay.selection.resemblance`.
        holds_out: also draw held-out samples, for the stopping rule.
        teacher: the frozen original on the device, if there is one already; else it is a copy.
        instead: the class index or prompt that takes the place of what is forgotten; None is the null condition.
        forgotten: classes or prompts of the model to forget, besides those of the forget images: no sample under them is kept.
        conditions: further tools that are conditions (:class:`vdu.core.types.Tools`), by name.
        say: called with progress messages; None is silent and shows no bars either.

    Returns:
        The auxiliary sets and tools.
    """
    counter = EvaluationCounter()
    wanted = set(method.needs) | set(method.uses)
    sets: dict[str, ImageSet | None] = {"forget": forget, "retain": retain, "own_forget": None}
    tools: dict[str, Any] = {"n_forget": len(forget), **conditions}
    record: dict[str, Any] = {}
    judged, seeds, own, reused, held_out = None, (), None, 0, HeldOut()
    sorts = needs_selection(method, retain is not None)
    tell = say or (lambda text: None)
    levels = getattr(method, "self_improvement_range", (0.0, 1.0))

    @cache
    def drawing() -> Denoiser:
        """The original on the device, for samples and latents."""
        return tools.get("teacher") or _on(original, device)

    if "self_model" in wanted:  # before samples are drawn in vain
        original.schedule.within(levels, "self_improvement_range")
    if "teacher" in wanted:
        tools["teacher"] = teacher or _frozen(original.copy(), device)
    if "forget" in method.uses:
        tools["forget"] = encoded(drawing(), forget.images, progress=ENCODING if say else None)
    if "sampler" in method.uses:
        tools["sampler"] = sampler
    if "forget_condition" in method.uses:
        tools["forget_condition"] = condition_of(original, forget, torch.arange(len(forget)), "forget")
    if "instead" in method.needs:
        tell("images of what takes the place of the forgotten ones")
        sets["instead"] = others = _drawn_instead(drawing(), forget, instead, sampler, seed, say is not None)
        counter.total += len(others) * sampler.evaluations(original)
    if sorts:  # before samples are drawn in vain
        require_enough("forget images", len(forget))
        require_enough("generated samples", n_own_samples)
    if sorts or "self_model" in wanted:
        tell(f"{n_own_samples} generated samples of the original model (drawn once, then cached)")
        own, n_drawn = cached_samples(drawing(), n_own_samples, sampler, progress="generated samples" if say else None)
        record["own_samples"] = {"n": len(own), "n_drawn_now": n_drawn, "sampler": sampler.describe()}
        counter.total += len(own) * sampler.evaluations(original)  # counted on a cache hit, too
        reused += (len(own) - n_drawn) * sampler.evaluations(original)
    if sorts:
        assert own is not None
        tell("selecting the samples that match the forget set")
        labels = _forget_labels(original, forget, forgotten)
        judged = resemblance(
            forget, own, drawing(), forget_labels=labels,
            seed=derive_seed(seed, "resemblance"), force=force,
            width=getattr(method, "classifier_width", CLASSIFIER_WIDTH), progress=say is not None,
        )  # fmt: skip
        share = _flops(judged.classifier, original)
        counter.total += round(judged.evaluations * share)
        record["resemblance"] = judged.describe() | {"classifier_flops_share": share}
        tell(
            f"{int(judged.forget.sum())} of the {len(own)} generated samples match the forget set, {int(judged.kept.sum())} do not and "
            "serve as images to keep; the rest is in between and not used"
        )
        kept, like = (
            own.select(judged.kept, f"{int(judged.kept.sum())} generated samples unlike the forget set"),
            own.select(judged.forget),
        )
        sets["retain"] = kept if retain is None else retain
        sets["own_forget"] = like if len(like) >= FEWEST_LIKE_FORGET else forget
        if getattr(method, "relabels", False):
            sets["own_forget"] = _under_labels(own, judged.forget, labels)
        tools["classifier"] = judged.classifier.to(device)
        if "retained" in wanted:
            tools["retained"] = encoded(drawing(), kept.images, progress=ENCODING if say else None).to(device or "cpu")
        seeds = tuple(torch.tensor(image_seeds(SHARED_SEED, len(own)))[judged.forget].tolist())
        if holds_out:
            title = "held-out samples" if say else None
            held_out = hold_out(drawing(), judged, sampler, n_own_samples, progress=title)
            record["held_out"] = held_out.describe()
            # by this classifier and the two of the selection
            counter.total += held_out.n_drawn * sampler.evaluations(original) + round(
                3 * len(SCORED_AT) * held_out.n_drawn * share
            )
            reused += (held_out.n_drawn - held_out.n_drawn_now) * sampler.evaluations(original)
            if held_out.seeds:
                tell(str(held_out))
    if "self_model" in wanted:
        assert own is not None
        tell("the self-trained auxiliary model (trained once, then cached)")
        steps = getattr(method, "self_model_steps", SELF_MODEL_STEPS)
        title = "self-trained model" if say else None
        copied, cost, made_now = cached_self_model(original, own, levels, steps, progress=title)
        record["self_model"] = {"sha256": weights_sha256(copied.network), "made_now": made_now}
        counter.total += cost
        reused += 0 if made_now else cost
        tools["self_model"] = _frozen(copied, device)
    if "forget_model" in wanted:
        tell("fine-tuning the auxiliary forget model on the forget set")
        with counter.watching(original.network):  # its copy counts too
            copied = fine_tuned_copy(
                original, forget, FORGET_MODEL, seed=derive_seed(seed, "forget_model"), progress="forget model" if say else None
            )  # fmt: skip
        tools["forget_model"] = _frozen(copied, device)
    return Auxiliaries(sets, Tools(**tools), record, counter.total, reused, seeds, judged, sampler, held_out)


def _drawn_instead(
    drawing: Denoiser, forget: ImageSet, instead: Any, sampler: Sampler, seed: int, progress: bool
) -> ImageSet:
    """Images that the original draws under what takes the concept's place, labelled with what is to be forgotten."""
    assert forget.labels is not None, "a conditional model's forget images have labels"
    every = forget.labels.unique()  # in turn, whatever their order and numbers in the set
    n = max(N_INSTEAD, len(every))
    seeds, title = image_seeds(derive_seed(seed, "instead"), n), "images instead" if progress else None
    drawn = to_uint8(sample(drawing, seeds, sampler, labels=[instead] * n, shared=True, progress=title))
    labels = every[torch.arange(n) % len(every)]
    return ImageSet(drawn, labels, class_names=forget.class_names, description=f"{n} images drawn instead")


def _under_labels(own: ImageSet, like: Tensor, labels: Sequence[int]) -> ImageSet:
    """All generated samples, those like the forget set first, under the classes to forget in turn."""
    order = torch.cat([like.nonzero().flatten(), (~like).nonzero().flatten()])
    return replace(own.select(order), labels=torch.tensor([labels[i % len(labels)] for i in range(len(own))]))


def _forget_labels(original: Denoiser, forget: ImageSet, forgotten: Sequence[str]) -> tuple[int, ...]:
    """The model's classes that are to be forgotten or occur in the forget set; empty for an unconditional model."""
    if not original.class_names:
        return ()
    found = set(labels_for(original, forget, torch.arange(len(forget)), "forget"))
    if original.takes_prompts:  # captions of images may be other words
        found = {original.class_names.index(each) for each in found if each in original.class_names}
    return tuple(sorted(found.union(map(original.class_names.index, forgotten))))


def _on(original: Denoiser, device: torch.device | None) -> Denoiser:
    """The original if it is on the device already, else a copy on the device; the original is not moved."""
    here = next(original.network.parameters()).device
    return original if device is None or torch.device(device) == here else _frozen(original.copy(), device)


def _frozen(denoiser: Denoiser, device: torch.device | None) -> Denoiser:
    denoiser.network.requires_grad_(False).eval()
    if device is not None:
        denoiser.network.to(device)
    return denoiser


def _flops(classifier: Any, denoiser: Denoiser) -> float:
    """FLOPs of the classifier's forward pass as a fraction of the denoiser's."""
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    first = next(denoiser.network.parameters())
    with torch.no_grad():
        for call in (
            lambda: classifier(torch.zeros(1, *denoiser.latent_shape), torch.tensor([0.5])),
            lambda: denoiser.raw(
                torch.zeros(1, *denoiser.latent_shape).to(first),
                torch.tensor([1]).to(first.device),
                denoiser.condition([0] if denoiser.class_names else [None]),
            ),
        ):
            with FlopCounterMode(display=False) as counter:
                call()
            counts.append(counter.get_total_flops())
    return counts[0] / max(1, counts[1])
