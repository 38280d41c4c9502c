"""Fine-tuning on retained data, in the expectation that the rest is forgotten.

    L(θ) = E_{x∈D_r, t} ‖ε − ε_θ(x_t, t)‖²/d

D_r the retained images (or generated samples without the forget class), ε the drawn noise, t
uniform over all steps of the schedule, ‖·‖² the sum over the d = C·H·W pixels, so that the term is the
MEAN over all elements: the plain loss with which the model was trained (Ho et al. 2020, arXiv 2006.11239, Eq. 14).

This is a reference and not a competitor. With infinitely many steps it converges to retraining without the class; its result after
few steps is the baseline for every method that uses retained data. It does not use the forget set.

Not guaranteed: forgetting. A model that fits D_r has no incentive to unlearn images that are absent from D_r.
"""

from dataclasses import dataclass, field
from types import MappingProxyType

from vdu.core.errors import InputError
from vdu.core.types import Batch, Denoiser, Losses
from vdu.methods.base import HIDDEN, BaseMethod, mean_squared
from vdu.methods.registry import register

__all__ = ["FineTune"]


@register
@dataclass(frozen=True, eq=False, kw_only=True)
class FineTune(BaseMethod):
    """Plain denoising loss on retained images, at all noise levels.

    Args:
        schedule: the noise levels; None takes the model's own.
        alpha_bar_range: not an option, since the range is that of images to forget, which are not used.

    Raises:
        InputError: if a range is given.
    """

    alpha_bar_range: tuple[float, float] = field(default=(0.0, 1.0), metadata=HIDDEN)

    name = "finetune"
    summary = "Continues training on retained images and does not use the forget images: a reference."
    needs = frozenset({"retain"})
    limits = MappingProxyType({"retain_mse": 2.0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if tuple(self.alpha_bar_range) != (0.0, 1.0):
            raise InputError(
                f"alpha_bar_range: got {self.alpha_bar_range}; expected none: it is for images to forget, and finetune uses images to keep."
            )

    def losses(self, denoiser: Denoiser, batch: Batch) -> Losses:
        """The denoising loss, also logged under the name that the other methods use."""
        retain = mean_squared(denoiser, batch["retain"]).mean()
        return Losses({"retain": retain}, {"retain_mse": retain.detach()})
