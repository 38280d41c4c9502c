"""Fine-tune on retained data: go on training on what is to be kept, and hope that the rest is forgotten.

    L(θ) = E_{x∈D_r, t} ‖ε − ε_θ(x_t, t)‖²/d

D_r the retained images (or own samples of the original model without those of the forget class), ε the drawn noise, t
uniform over all steps of the schedule, ‖·‖² the sum over the d = C·H·W pixels, so that the term is the
MEAN over all elements: the plain loss with which the model was trained (Ho et al. 2020, arXiv 2006.11239, Eq. 14).

It is a reference and not a competitor: with infinite steps it ends where retraining without the class ends, and how far it
comes in few steps says what every method that sees retained data gets for free. It never looks at the forget set.

Not guaranteed: forgetting. A model that fits D_r has no reason to unlearn what D_r does not speak of.
"""

from dataclasses import dataclass
from types import MappingProxyType

from vdu.core.types import Batch, Denoiser, Losses
from vdu.methods.base import BaseMethod, mean_squared
from vdu.methods.registry import register

__all__ = ["FineTune"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class FineTune(BaseMethod):
    """Plain denoising loss on retained images; arguments as for :class:`vdu.methods.base.BaseMethod`."""

    name = "finetune"
    summary = "Goes on training on what is to be kept and never looks at the forget images: a reference."
    needs = frozenset({"retain"})
    limits = MappingProxyType({"retain_mse": 2.0})

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The denoising loss, also under the name that the other methods log."""
        retain = mean_squared(denoiser, batch["retain"]).mean()
        return Losses({"retain": retain}, {"retain_mse": retain.detach()})
