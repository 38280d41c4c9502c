"""SalUn: a forget term and a retain term, on the salient half of the weights.

    m  = 1 on the largest 50 % of |Σ_b clip(∇_θ ℓ_b(θ*))| over all weights together, else 0          saliency mask
    L(θ) = E_{D_f} ‖ε_θ(x_t, t, c) − sg ε_θ(x_t, t, c′)‖²/d  +  α E_{D_r} ‖ε − ε_θ(x_t, t, c)‖²           relabelling
    L(θ) = −E_{D_f} ‖ε − ε_θ(x_t, t)‖²/d  +  α E_{D_r} ‖ε − ε_θ(x_t, t)‖²                              without conditions: ascent
    θ ← m ⊙ (θ after the optimiser's step) + (1−m) ⊙ θ*                                              after every step

D_f the forget set, D_r retained images, c the label or prompt of an image, c′ another one: that of ``--instead``, else that of one of
the retained images of the step. sg is without a gradient. θ* the original weights, ε the drawn noise, t uniform over all steps (for
D_f over those in ``alpha_bar_range``), d = C·H·W, E the mean over the batch, ‖·‖² the SUM over pixels, clip the scaling of a batch's
gradient to norm 1, ℓ_b = ‖ε − ε_θ(x_t, t)‖² averaged over batch b of D_f (each image once, at one drawn step).

Reductions: the forget term is the MEAN over all elements, the retain term the SUM over pixels averaged over images, so that
α = 1e-3 weighs an element of D_r α·d times one of D_f: 0.8 on MNIST, 3.1 on CIFAR-10. The public code (OPTML-Group/
Unlearn-Saliency, ``DDPM/runners/diffusion.py``) has this pair for its relabelling, where c′ is the next class; its own ascent sums
over pixels in both terms. Without labels only ascent is possible.

The UPDATE is masked, not the gradient alone: weight decay moves a weight that has no gradient. Our mask is the gradient of the
whole set, at θ*, largest first. So is that of the public code since commit b874ee9 of 17 December 2023 (``generate_mask``; the
newest read is a6e89fd), which draws the steps in antithetic pairs, and takes ε_θ with guidance (``cond_scale``, 2 unless set)
where ours is without. Before that (for example in bc74947 and 2b0a8a1) it stepped the optimiser between the batches and ranked in
ascending order, which kept the LEAST salient half; 2b0a8a1 also added |∇ℓ_b| over batches.

Low-rank corrections (LoRA) W₀ + B A start at B = 0, where the gradient by A is 0 and the mask would hold all of B and ties of A:
they are refused unless the share is 1.

Not guaranteed: that ascent stops (it has no lower bound; the guard ends a run whose errors pass twice that of predicting
no noise at all); that ties between weights are broken in the same way on different devices.

Source: Fan, Liu, Zhang, Wong, Wei & Liu 2024, "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in
Both Image Classification and Generation", arXiv 2310.12508, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor, nn

from vdu.core.errors import InputError
from vdu.core.modes import evaluating
from vdu.core.ranges import AT_LEAST_0, COUNT, POSITIVE, SEED, Range
from vdu.core.rng import generator
from vdu.core.types import Batch, Condition, Denoiser, Losses, NamedTensors, Tools
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.base import PRIVATE, BaseMethod, mean_squared, other_condition, under
from vdu.methods.registry import register
from vdu.posterior.denoising import gradients, only_gradients_of

__all__ = ["SalUn", "saliency", "top_share"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class SalUn(BaseMethod):
    """SalUn (Fan et al. 2024).

    Args:
        alpha: α, the weight of the retain term (a sum over pixels) against the forget term (a mean over elements).
        salient_share: the fraction of all weights that may change, in (0, 1]; 1 is plain ascent with a retain term.
        mask_batch_size: images per batch whose gradient is clipped by itself.
        mask_clip_norm: the norm to which each is clipped.
        mask_seed: seeds the noise and the steps at which the mask is measured.

    Raises:
        InputError: if a setting is out of range.
    """

    alpha: float = 1e-3
    salient_share: float = 0.5
    mask_batch_size: int = 64
    mask_clip_norm: float = 1.0
    mask_seed: int = 0
    _mask: NamedTensors | None = field(default=None, repr=False, metadata=PRIVATE)
    _original: NamedTensors | None = field(default=None, repr=False, metadata=PRIVATE)

    name = "salun"
    summary = "Relabels the forget images (without labels: ascends on them), on the half of the weights that is most salient for them."
    needs = frozenset({"forget", "retain"})
    substitutes = "asked"
    limits = MappingProxyType({"mse": 2.0, "retain_mse": 2.0})

    ranges = MappingProxyType({
        "alpha": AT_LEAST_0,
        "salient_share": Range("a number above 0, up to 1 (published: 0.5)", 0, above=True, high=1, below=False),
        "mask_batch_size": COUNT,
        "mask_clip_norm": POSITIVE,
        "mask_seed": SEED,
    })  # fmt: skip

    @property
    def uses(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The forget images for the mask, with their conditions."""
        return frozenset({"forget", "forget_condition"} if self._conditional else {"forget"})

    @property
    def corrections(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether nothing is masked: B of a correction starts at 0, so that every gradient by A is 0, whatever the forget images are."""
        return self.salient_share == 1

    def prepare(self, denoiser: Denoiser, tools: Tools) -> Self:
        """Compute the mask at the original weights, and store these weights."""
        ready = super().prepare(denoiser, tools)
        assert tools.forget is not None and ready.schedule is not None
        found = saliency(
            denoiser,
            tools.forget,
            ready.draw_weights(),
            condition=tools.forget_condition,
            schedule=ready.schedule,
            batch_size=self.mask_batch_size,
            clip_norm=self.mask_clip_norm,
            generator=generator(self.mask_seed, "salun mask"),
        )
        original = {
            name: value.detach().clone() for name, value in denoiser.network.named_parameters() if name in found
        }
        return replace(ready, _mask=top_share(found, self.salient_share), _original=original)

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The forget term and the retain term; the observed errors are those against the drawn noise."""
        guess = denoiser.noise(batch["forget"])
        forget = (guess - batch["forget"].noise).square().flatten(1).mean(1).mean()
        if self._conditional:
            with torch.no_grad():
                other = denoiser.noise(under(batch["forget"], other_condition(self.tools, batch)))
            term = (guess - other).square().mean()
        else:
            term = -forget
        retain = mean_squared(denoiser, batch["retain"]).mean()
        pixels = batch["retain"].x0[0].numel()  # d: the mean over elements becomes the sum over pixels
        observed = {"mse": forget.detach(), "retain_mse": retain.detach()}
        return Losses({"forget": term, "retain": self.alpha * pixels * retain}, observed)

    def after_step(self, parameters: Mapping[str, nn.Parameter], values: Mapping[str, float]) -> None:
        """Restore the weights outside the mask exactly."""
        assert self._mask is not None and self._original is not None, "prepare() comes first"
        with torch.no_grad():
            for name, value in parameters.items():
                mask, original = self._mask[name].to(value.device), self._original[name].to(value.device)
                value.copy_(torch.where(mask, value, original))


def saliency(
    denoiser: Denoiser,
    images: Tensor,
    draw_weights: Tensor,
    *,
    schedule: NoiseSchedule,
    condition: Condition | None = None,
    batch_size: int,
    clip_norm: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """|Σ_b clip(∇_θ ℓ_b)| over batches of the forget set.

    Args:
        denoiser: the original model; evaluated without dropout, and left as it was.
        images: the forget set in the model's own space, [n, …].
        draw_weights: relative probability of each timestep index, [T].
        schedule: the noise schedule of these indices.
        condition: of each image; None for an unconditional model.
        batch_size: images per batch; the last may be smaller.
        clip_norm: each batch's gradient is scaled down to this norm if it is larger.
        generator: the only source of timesteps and noise, on the CPU.

    Returns:
        One non-negative tensor per trainable parameter, of its shape.

    Raises:
        InputError: if a gradient is not finite.
    """
    network = denoiser.network
    parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
    values: list[Tensor] = list(parameters.values())
    total = [torch.zeros_like(value, requires_grad=False) for value in values]
    with evaluating(network), only_gradients_of(network, values):
        for rows in torch.arange(len(images)).split(batch_size):
            x0 = images[rows].to(values[0])
            its = condition and {name: value[rows] for name, value in condition.items()}
            noise = torch.randn(x0.shape, generator=generator).to(x0)
            index = torch.multinomial(draw_weights, len(x0), replacement=True, generator=generator)
            batch = noised_batch(x0, index, noise, schedule, denoiser.schedule, condition=its)
            loss = x0[0].numel() * mean_squared(denoiser, batch).mean()  # the sum over pixels
            found = gradients(loss, values)
            norm = torch.nn.utils.get_total_norm(found)
            if not bool(norm.isfinite()):
                raise InputError(
                    f"forget: the gradient of the denoising loss has norm {float(norm)}; expected a finite number. "
                    "Check the images and the checkpoint."
                )
            torch._foreach_add_(total, found, alpha=min(1.0, clip_norm / max(float(norm), 1e-30)))
    return {name: each.abs() for name, each in zip(parameters, total, strict=True)}


def top_share(values: NamedTensors, share: float) -> dict[str, Tensor]:
    """Mask of the largest entries over all tensors together.

    Args:
        values: tensors by name.
        share: fraction of the entries, in (0, 1].

    Returns:
        True on exactly round(share · number of entries) of them, but at least one.

    Examples:
        >>> found = top_share({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([[2.0], [0.5]])}, 0.5)
        >>> found["a"].tolist(), found["b"].tolist()
        ([True, False], [[True], [False]])
    """
    flat = torch.cat([value.flatten() for value in values.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    chosen[torch.topk(flat, max(1, round(share * len(flat))), sorted=False).indices] = True
    parts = chosen.split([value.numel() for value in values.values()])
    return {name: part.view(value.shape) for (name, value), part in zip(values.items(), parts, strict=True)}
