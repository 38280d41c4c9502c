"""EraseDiff: train the forget images towards a wrong target, as a constraint on minimising the retain loss.

    min_θ L_r(θ)   such that   q(θ) = L_f(θ) − min_φ L_f(φ) ≤ 0
    update along  ∇L_r + λ ∇q,     min L_f ≈ L_f(θ_K),  θ_0 = θ,  θ_{k+1} = θ_k − η' ∇L_f(θ_k)    on a copy, a constant

L_r = E_{D_r} ‖ε − ε_θ(x_t, t)‖²/d the denoising loss of retained images, L_f = E_{D_f} ‖u − ε_θ(x̃_t, t)‖²/d that of the
forget images towards a wrong target u, both MEANS over all elements, t uniform over all steps (for D_f over those in
``alpha_bar_range``), d = C·H·W.

Targets (three variants are published under one name):

    uniform-shared   u ~ U[0, 1]^d, and x̃_t = √ᾱ x0 + √(1−ᾱ) u: the same u in input and target. The authors' DDPM code:
                     an ordinary denoising loss with noise that is not normal
    uniform-fresh    u ~ U[0, 1]^d, x̃_t = x_t with the drawn normal ε. As in the code of SISS (claserken/SISS)
    relabel          for conditional models u = sg ε_θ(x_t, c′), as in the authors' code: the prediction under another label or
                     prompt c′, that of ``--instead``, else that of one of the retained images of the step. For unconditional
                     ones u = (x_t − √ᾱ x_r)/√(1−ᾱ) = ε + √SNR (x0 − x_r): the noise that x_t would hold if it came from x_r,
                     another image, of D_r. SNR = ᾱ/(1−ᾱ): u has magnitude 100 at the cleanest level of the usual schedule,
                     and those levels dominate the mean. Narrow ``alpha_bar_range`` to avoid this

λ: constant (0.1), or with ``adaptive`` max(η − ⟨∇L_r, ∇q⟩/‖∇q‖², 0), over all weights together: the smallest λ ≥ 0 with
⟨∇L_r + λ∇q, ∇q⟩ ≥ η‖∇q‖², so that every small step lowers q (BOME, Liu et al. 2022, arXiv 2209.08709, with its
φ = η‖∇q‖²). The public code (JingWu321/EraseDiff) divides by ‖∇L_r‖‖∇q‖ instead: a cosine, which does not have this
property and is not offered. With ``adaptive`` the logged forget term is q without λ.

**The inner loop affects only the logged values.** min L_f is a constant for autograd and does not enter λ, so that the update is
∇L_r + λ∇L_f for any K. In the public code the inner loop has a side effect: its steps update the moments of the same Adam. Here
they are plain gradient descent on a copy, with the draws of the outer loss, so that q ≥ 0 for small η' (without dropout). K = 0
saves their cost (3K + 1 evaluations per forget image) and logs q = 0.

Not guaranteed: that q reaches 0; that the wrong targets lead to images without the class (a network that gives E[u] = ½ for
every pixel generates something else).

u is drawn with the batch (``draws``), for the whole step: it does not depend on the number of processes or micro-batches.

Source: Wu, Le, Hayat & Harandi 2024, "EraseDiff: Erasing Data Influence in Diffusion Models", arXiv 2401.05779.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vdu.core.ranges import NOT_NEGATIVE, POSITIVE
from vdu.core.types import Batch, Denoiser, Losses, NoisedBatch, column
from vdu.methods.base import BaseMethod, drawn, mean_squared, other_condition, under
from vdu.methods.registry import register

__all__ = ["TARGETS", "EraseDiff", "wrong_target"]

TARGETS = ("uniform-shared", "uniform-fresh", "relabel")


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class EraseDiff(BaseMethod):
    """EraseDiff (Wu et al. 2024).

    Args:
        target: "uniform-shared", "uniform-fresh" or "relabel".
        weight: the constant λ.
        adaptive: compute λ from the gradients instead.
        eta: η of the adaptive λ.
        inner_steps: K, gradient steps towards min L_f.
        inner_learning_rate: η', their size.

    Raises:
        InputError: if a setting is unknown or out of range.
    """

    target: str = "uniform-shared"
    weight: float = 0.1
    adaptive: bool = False
    eta: float = 0.5
    inner_steps: int = 2
    inner_learning_rate: float = 1e-3

    name = "erasediff"
    summary = "Trains the forget images towards a wrong target, as a constraint on minimising the retain loss."
    needs = frozenset({"forget", "retain"})

    ranges = MappingProxyType(
        {"weight": POSITIVE, "eta": POSITIVE, "inner_steps": NOT_NEGATIVE, "inner_learning_rate": POSITIVE}
    )  # fmt: skip
    choices = MappingProxyType({"target": tuple(TARGETS)})
    only_with = MappingProxyType({"weight": ("adaptive", (False,)), "eta": ("adaptive", (True,))})

    @property
    def draws(self) -> Mapping[str, Mapping[str, str]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The random numbers for u, unless another image gives the target."""
        return MappingProxyType({} if self.target == "relabel" else {"forget": {"uniform": "element"}})

    @property
    def substitutes(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Only the target "relabel" is a prediction under another label or prompt."""
        return "asked" if self.target == "relabel" else ""

    @property
    def per_term(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether separate gradients are needed: only for the adaptive λ."""
        return self.adaptive

    @property
    def limits(self) -> Mapping[str, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As for the other methods; another image as the target has no limit on the forget set, where large errors are intended."""
        return {"retain_mse": 2.0} | ({} if self.target == "relabel" and not self._conditional else {"mse": 2.0})

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """L_r and λ q (adaptive: q), and the plain errors against the noise that was drawn."""
        retain = mean_squared(denoiser, batch["retain"]).mean()
        if self.target == "relabel" and self._conditional:
            wrong = batch["forget"]
            predicted = denoiser.noise(wrong)
            with torch.no_grad():
                target = denoiser.noise(under(wrong, other_condition(self.tools, batch)))
        else:
            wrong, target = wrong_target(self.target, batch["forget"], batch["retain"].x0)
            predicted = denoiser.noise(wrong)
        forget = (predicted - target).square().mean()
        constraint = forget - self._least(denoiser, wrong, target, forget)
        with torch.no_grad():
            if self.target == "uniform-shared":  # its input is not x_t
                mse = mean_squared(denoiser, batch["forget"]).mean()
            else:
                mse = (predicted - batch["forget"].noise).square().mean()
        terms = {"forget": constraint if self.adaptive else self.weight * constraint, "retain": retain}
        return Losses(terms, {"mse": mse, "retain_mse": retain.detach()})

    def combine(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """∇L_r + max(η − ⟨∇L_r, ∇q⟩/‖∇q‖², 0) ∇q."""
        of_r, of_q = gradients["retain"], gradients["forget"]
        square = _inner(of_q, of_q)
        weight = max(self.eta - _inner(of_r, of_q) / square, 0.0) if square > 0 else 0.0
        return [g_r + weight * g_q for g_r, g_q in zip(of_r, of_q, strict=True)]

    def _least(self, denoiser: Denoiser, batch: NoisedBatch, target: Tensor, start: Tensor) -> Tensor:
        """L_f(θ_K), without a graph."""
        if self.inner_steps == 0:
            return start.detach()
        network = denoiser.network
        inner = copy.deepcopy(network.module if isinstance(network, DistributedDataParallel) else network)
        face = denoiser.with_network(inner)
        parameters = [value for value in inner.parameters() if value.requires_grad]
        for _ in range(self.inner_steps):
            loss = mean_squared(face, batch, target).mean()
            found = torch.autograd.grad(loss, parameters, materialize_grads=True)
            with torch.no_grad():
                for value, gradient in zip(parameters, found, strict=True):
                    value.sub_(gradient, alpha=self.inner_learning_rate)
            torch.clear_autocast_cache()  # otherwise mixed precision uses the weights before the step
        with torch.no_grad():
            return mean_squared(face, batch, target).mean()


def wrong_target(kind: str, forget: NoisedBatch, others: Tensor) -> tuple[NoisedBatch, Tensor]:
    """The noised forget images and the wrong target.

    Args:
        kind: one of ``TARGETS``.
        forget: the forget images, [batch, channels, height, width], with the draws "uniform" of that shape unless the
            kind is "relabel".
        others: images to keep, [n, channels, height, width]; the i-th is used for the i-th forget image, cyclically
            where there are fewer.

    Returns:
        The batch whose ``x_t`` is the network's input, and the target u, like its noise.
    """
    if kind == "relabel":
        x_r = others[torch.arange(len(forget.x0), device=others.device) % len(others)]
        level = column(forget.alpha_bar, forget.x0)
        return forget, (forget.noise + (level / (1 - level)).sqrt() * (forget.x0 - x_r)).to(forget.noise.dtype)
    uniform = drawn(forget, "uniform").to(forget.noise)
    return (replace(forget, noise=uniform) if kind == "uniform-shared" else forget), uniform


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    # float64: millions of products of either sign
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))
