"""Retain-score distillation: distil the score that the model would have without the forget set, estimated from its own samples.

Let q be the model's distribution, q_f its forget component and r(x_t) = P(forget | x_t). The noise prediction of the rest is exactly

    ε_r = ε₀ + r/(1−r) (ε₀ − ε_f)  =  ε₀ − √(1−ᾱ) ∇ log(1 − r(x_t))                  q_r = (q − πq_f)/(1−π)

The student ε_θ, started at the original ε₀, learns

    L(θ) = E_{S_r, all t} ‖ε_θ − ε_keep‖²/d  +  ζ E_{D_f ∪ S_f, middle t} ‖ε_θ − ε_lead‖²/d

    ε_keep = ε₀  +  s_k a √(1−ᾱ) σ(h)∇h  +  w [ᾱ in A_w] (ε₀ − ε_s)    the correction, and self-improvement
    ε_lead = ε₀  +  s a √(1−ᾱ) σ(h)∇h                                  the same correction                ("gradient")
             or ε₀ + min(s e^h, w_max) (ε₀ − ε_f)                      e^h = r/(1−r), w_max = 5   ("forget-model")
             or the noise of the nearest generated samples              :mod:`vdu.methods.retrack`      ("retrack")

h is the logit of r. In this form, −∇log(1−r) = σ(h)∇h does not vanish where r is near 1, and no r is clamped; instead, the norm of
the correction is capped at ‖ε₀‖. The slope of a classifier varies with its seed and training length, and the amount of forgetting
follows it closely (docs/dev/methods-log.md, 65). The correction is therefore scaled to a fixed length ℓ*, by a factor measured once on
the forget set:

    a = ℓ*/ℓ,   ℓ² = E_{D_f, middle t} ‖√(1−ᾱ) σ(h)∇h‖²/d

S_r and S_f are the generated samples unlike and like the forget set D_f. ε_s is the self-trained auxiliary model: the original after
a short fine-tuning on its generated samples (:mod:`vdu.replay.auxiliary_models`; w also amplifies training noise). ε_s amplifies the
original's errors; extrapolating away from it (SIMS) reduces them. This self-improvement more than compensates the cost of training:
with it, the unlearned model's u-FID falls below that of the filtered-oracle baseline. It acts at ᾱ in A_w only. At higher noise
levels, which determine the content of an image, auxiliary models of different seeds agree less (docs/dev/methods-log.md, 53), and the
extrapolation changes the proportions of the retained classes; at lower ones it costs likelihood without any gain (59).

ε_f is the forget model: the original after a short fine-tuning on the forget set. Of the three forget targets (ε_lead), the
classifier gradient aligns best with the change that retraining without the forget set causes (at ᾱ ≥ 0.1; ``benchmarks/leads.py``),
but it is about half as large, because a classifier trained on few images is under-confident; therefore s > s_k. An exact r would need
neither a nor s > 1. A sampler with few steps, however, jumps over the narrow region where the correction acts (sampling with ε_r and
no training, ``mnist``, digit 8: PUL 53 % at s = 1, 70 % at s = 2, 87 % at s = 4; ``benchmarks/resemblance.py``), and a student trained
for few steps does not reach it (the leaderboard's row with s = s_k = 1).

Under a label to forget, the model of the rest has no images of its own. It is to draw there what it draws without a label: with ∅ the null
class, h as above and every generated sample x under a label c to forget, whatever it shows, so that the whole way from noise is taught,

    L(θ) = E_{S_r, all t} ‖ε_θ(x_t, c) − ε_keep(x_t, c)‖²/d  +  ζ E_{D_f ∪ S, all t} ‖ε_θ(x_t, c) − ε_lead‖²/d

    ε_lead = ε₀(x_t, ∅)  +  s a √(1−ᾱ) σ(h)∇h

A label that is named (``--instead``) leads as a prompt does. A model without a null class has the target of models without labels.

Under a prompt of the concept nearly all mass is unwanted, and there is nowhere near to go. What is forgotten in words therefore has
another target: what the original predicts under another prompt c′(c), as in concept ablation. ``--instead`` names it; by default it is
the prompt to keep that is nearest to c (:func:`vdu.unlearning.prompts.substitutes`). The cross-attention trains and the rest does not:

    L(θ) = E_{S_r, all t} ‖ε_θ(x_t, c) − ε₀(x_t, c)‖²/d  +  ζ E_{D_f ∪ S_f, all t} ‖ε_θ(x_t, c) − ε₀(x_t, c′(c))‖²/d     ζ = 3

Not guaranteed: that r is right (see ``vdu.replay.selection``); that other images stay the same pixel by pixel.

Source: ours. Classifier gradients: Dhariwal & Nichol 2021, arXiv 2105.05233, Eq. 10.
Negative weights that follow P(forget | x_t): Koulischer et al. 2024, arXiv 2410.14398. Away from a model trained on its own
samples: Alemohammad et al. 2024, arXiv 2408.16333 ("SIMS"). Guidance at some noise levels only: Kynkäänniemi et al. 2024, arXiv
2404.07724.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.ranges import AT_LEAST_0, COUNT, NOT_NEGATIVE, POSITIVE, Range
from vdu.core.rng import generator
from vdu.core.types import Batch, Denoiser, Losses, NoisedBatch, Tools, column
from vdu.diffusion.schedule import NoiseSchedule, noised_batch, require_range
from vdu.methods.base import PRIVATE, BaseMethod, in_place, mean_squared, under
from vdu.methods.registry import register
from vdu.methods.retrack import CHOSEN, retrack_target

__all__ = ["RetainDistillation", "repulsion", "repulsion_length"]

LEADS = ("gradient", "forget-model", "retrack")
LARGEST_ODDS = 5.0  # w_max
N_MEASURED = 2048  # noised images for the measurement of the correction's length


def repulsion(classifier: Any, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """−√(1−ᾱ) ∇ₓ log(1 − r(x_t)) = √(1−ᾱ) σ(h)∇h, to be added to the noise.

    Args:
        classifier: (x_t, ᾱ) → logit h of r, [batch].
        x_t: noised images, [batch, channels, height, width].
        alpha_bar: ᾱ, [batch].

    Returns:
        [batch, channels, height, width].
    """
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        # −log(1 − σ(h)) = softplus(h)
        total = torch.nn.functional.softplus(classifier(x, alpha_bar)).sum()
        (gradient,) = torch.autograd.grad(total, x)
    return column((1 - alpha_bar).sqrt().to(gradient.dtype), gradient) * gradient


def repulsion_length(
    classifier: Any, images: Tensor, draw_weights: Tensor, schedule: NoiseSchedule, *, generator: torch.Generator
) -> float:
    """ℓ, the root mean square of :func:`repulsion` over noised images, all elements alike.

    Args:
        classifier: (x_t, ᾱ) → logit of r.
        images: in the model's own space, [n, …]; 2048 are drawn, with repetitions.
        draw_weights: relative probabilities of the noise levels, [T].
        schedule: the noise levels.
        generator: draws images, levels and noise, on the CPU.

    Returns:
        As a fraction of the noise's length.

    Raises:
        InputError: if it is 0 or not finite.
    """
    total = 0.0
    for _ in range(N_MEASURED // 128):
        x0 = images[torch.randint(len(images), (128,), generator=generator)]
        index = torch.multinomial(draw_weights, len(x0), replacement=True, generator=generator)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        batch = noised_batch(x0, index, noise, schedule, schedule)
        total += float(repulsion(classifier, batch.x_vp, batch.alpha_bar).double().square().mean())
    length = (total / (N_MEASURED // 128)) ** 0.5
    if not 0 < length < float("inf"):
        raise InputError(
            f"classifier: its gradient on forget images has the length {length}; expected a finite number above 0. It separates nothing: "
            "draw more generated samples (--n-own-samples), or leave the gradient unscaled (--option gradient_length=0)."
        )
    return length


def _capped(step: Tensor, reference: Tensor) -> Tensor:
    # no longer than the reference, image by image
    longest, length = reference.flatten(1).norm(dim=1), step.flatten(1).norm(dim=1)
    return step * column((longest / length.clamp_min(1e-12)).clamp(max=1), step)


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class RetainDistillation(BaseMethod):
    """Retain-score distillation, with self-improvement unless it is 0.

    Args:
        repulsion_scale: s ≥ 0, scale of the correction on forget images; a larger one forgets more.
        keep_scale: s_k ≥ 0, scale of the correction on retained images.
        gradient_length: ℓ* ≥ 0, as a fraction of the noise's length; 0 leaves the correction unscaled.
        self_improvement: w ≥ 0; 0 only forgets: the original's own errors stay, and no self-trained auxiliary model is made.
        self_improvement_range: A_w, the smallest and the largest ᾱ at which w acts, within [0, 1].
        lead: the forget target ε_lead: "gradient", "forget-model" or "retrack".
        forget_weight: ζ > 0.
        pool_size: number of batches that repeat with their targets (:mod:`vdu.unlearning.target_pool`); 0 draws a new batch at every step.
        classifier_width: channels after the classifier's first convolution; the cost grows with its square.
        self_model_steps: optimiser steps of the self-trained model.
        schedule: the noise levels; None takes the model's own.
        alpha_bar_range: noise levels of the forget images; retained images use all levels.

    Raises:
        InputError: if a weight is out of range or the forget target is unknown.
    """

    repulsion_scale: float = 2.25
    keep_scale: float = 1.5
    gradient_length: float = 0.035
    self_improvement: float = 2.25
    self_improvement_range: tuple[float, float] = (0.2, 0.7)
    lead: str = "gradient"
    forget_weight: float = 1.0
    pool_size: int = 0
    classifier_width: int = 32
    self_model_steps: int = 100
    alpha_bar_range: tuple[float, float] = (0.0015, 0.66)
    _factor: float = field(default=1.0, repr=False, metadata=PRIVATE)
    _unlabelled: bool = field(default=False, repr=False, metadata=PRIVATE)

    name = "distillation"
    summary = "Distils the score that the model would have without the forget set, estimated from its own samples."
    training = replace(CHOSEN, steps=600, ema_decay=0.995)
    stops = True
    word_part = "cross-attention"
    strength = ("repulsion_scale", "forget_weight")
    word_options = MappingProxyType({
        "keep_scale": 0.0, "gradient_length": 0.0, "self_improvement": 0.0, "forget_weight": 3.0, "alpha_bar_range": (0.0, 1.0),
        "classifier_width": 16,  # it serves the stopping rule alone
    })  # fmt: skip
    label_options = MappingProxyType({"alpha_bar_range": (0.0, 1.0)})
    limits = MappingProxyType({"keep_mse": 2.0})  # ε_lead may lie as far from ε_θ as w_max (ε₀ − ε_f) reaches
    needs = frozenset({"forget", "own_forget", "retain"})
    batch_shares = MappingProxyType({"forget": 0.375, "own_forget": 0.375})

    ranges = MappingProxyType({
        "forget_weight": POSITIVE,
        **dict.fromkeys(("repulsion_scale", "keep_scale", "gradient_length", "self_improvement"), AT_LEAST_0),
        "pool_size": NOT_NEGATIVE,
        "classifier_width": Range("a whole number, at least 8", 8, whole=True),
        "self_model_steps": COUNT,
    })  # fmt: skip
    choices = MappingProxyType({"lead": tuple(LEADS)})

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("self_improvement_range", self.self_improvement_range)
        if self.classifier_width % 8:
            raise InputError(
                f"classifier_width: got {self.classifier_width}; expected a multiple of 8, since channels are normalised in 8 groups."
            )

    @property
    def uses(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The tools that the settings require."""
        wanted = {"teacher", "classifier"}
        wanted |= {"self_model"} if self.self_improvement else set()
        wanted |= {"forget"} if self._corrects else set()
        return frozenset(wanted | {"retrack": {"retained"}, "forget-model": {"forget_model"}}.get(self.lead, set()))

    @property
    def _corrects(self) -> bool:
        """Whether a target has the scaled correction."""
        return bool(self.gradient_length) and (bool(self.keep_scale) or self.lead == "gradient")

    @property
    def substitutes(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Nothing, if retained images lead: they are the target whatever the condition."""
        return "" if self.lead == "retrack" else "words"

    def idle_options(self) -> Mapping[str, Any]:
        """What belongs to a forget target that the substitute's predictions replace."""
        idle = ("repulsion_scale", "lead", *(() if self.keep_scale else ("gradient_length",)))
        found = {name: getattr(self, name) for name in idle if getattr(self, name) != getattr(type(self), name)}
        return {name: value for name, value in found.items() if value}  # a length of 0 is the default in words

    @property
    def relabels(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the null class leads."""
        return self._unlabelled

    def for_model(self, denoiser: Denoiser, *, instead: bool = False) -> Self:
        """Under a label the null class leads, if there is one and nothing is named instead."""
        labels = bool(denoiser.class_names) and getattr(denoiser, "null_class", None) is not None
        ready = replace(self, _unlabelled=labels and not instead and self.lead != "retrack")
        return super(RetainDistillation, ready).for_model(denoiser, instead=instead)

    @property
    def pool(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The option ``pool_size``."""
        return self.pool_size

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Take the tools and measure the length of the correction."""
        ready = super().prepare(denoiser, tools)
        if self._corrects:
            assert tools.forget is not None and ready.schedule is not None
            forget = tools.forget.to(next(denoiser.network.parameters()))
            length = repulsion_length(
                tools.classifier, forget, ready.draw_weights(), ready.schedule, generator=generator(0, "length")
            )
            return replace(ready, _factor=self.gradient_length / length)
        return ready

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """Both terms; the distances from both targets are monitored."""
        retain = batch["retain"]
        forget = NoisedBatch.joined(batch["forget"], batch["own_forget"])
        both = NoisedBatch.joined(retain, forget)
        if both.target is None:
            with torch.no_grad():
                both = replace(both, target=torch.cat([self.keep_target(retain), self.lead_target(forget)]))
        errors = mean_squared(denoiser, both, both.target)
        keep, lead = (part.mean() for part in errors.split([len(retain.x0), len(forget.x0)]))
        return Losses(
            {"keep": keep, "lead": self.forget_weight * lead}, {"keep_mse": keep.detach(), "mse": lead.detach()}
        )

    def targets(self, batch: Batch) -> dict[str, Tensor]:
        """ε_keep and ε_lead, for a pool of batches."""
        forget = NoisedBatch.joined(batch["forget"], batch["own_forget"])
        given, own = self.lead_target(forget).split([len(batch["forget"].x0), len(batch["own_forget"].x0)])
        return {"retain": self.keep_target(batch["retain"]), "forget": given, "own_forget": own}

    def keep_target(self, batch: NoisedBatch) -> Tensor:
        """ε_keep of noised retained images, [batch, channels, height, width]."""
        tools = self._tools()
        assert tools.teacher is not None
        original = tools.teacher.noise(batch)
        target = original + self._repulsion(self.keep_scale, batch, original) if self.keep_scale else original.clone()
        low, high = self.self_improvement_range
        inside = (low <= batch.alpha_bar) & (batch.alpha_bar <= high)
        if self.self_improvement and bool(inside.any()):
            assert tools.self_model is not None
            worse = tools.self_model.noise(batch.select(inside))
            target[inside] += self.self_improvement * (original[inside] - worse)
        return target

    def lead_target(self, batch: NoisedBatch) -> Tensor:
        """ε_lead of noised forget images, [batch, channels, height, width]."""
        tools = self._tools()
        if self.lead == "retrack":
            assert tools.retained is not None
            return retrack_target(batch, tools.retained)
        assert tools.teacher is not None
        if self._unlabelled:
            assert tools.substitute is not None
            original = tools.teacher.noise(under(batch, tools.substitute))
        elif tools.substitute is not None:  # nearly all mass under the prompt is unwanted
            return tools.teacher.noise(in_place(batch, tools.unwanted, tools.substitute))
        else:
            original = tools.teacher.noise(batch)
        if self.lead == "gradient":
            return original + self._repulsion(self.repulsion_scale, batch, original)
        assert tools.forget_model is not None
        assert tools.classifier is not None
        logits = tools.classifier(batch.x_vp, batch.alpha_bar)
        odds = column((self.repulsion_scale * logits.exp()).clamp(max=LARGEST_ODDS), original)
        return original + odds * (original - tools.forget_model.noise(batch))

    def _repulsion(self, scale: float, batch: NoisedBatch, original: Tensor) -> Tensor:
        return _capped(
            scale * self._factor * repulsion(self._tools().classifier, batch.x_vp, batch.alpha_bar), original
        )

    def _tools(self) -> Tools:
        assert self.tools is not None, "prepare() comes first"
        return self.tools
