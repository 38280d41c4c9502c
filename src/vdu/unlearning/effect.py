"""Whether there is something to forget, and whether the training changed anything: checks that cost some network evaluations.

    D(c, c′) = mean over images, noise and three noise levels of (ε₀(x_t, c) − ε₀(x_t, c′))²

Summed over all levels with the weights w_t/2, D is the Kullback–Leibler divergence of what a model draws under c from what it draws under
c′. A concept is taken to be unknown where D(concept, substitute) is below 1 % of the median D(prompt, null) of other prompts on the same
images: less than a tenth of the length by which words usually move a prediction.

Seen: a model that ignores words, or the words of this concept (their text is cut off, they were erased before and lead to the substitute).
Not seen: a prompt without a meaning, or one that the model draws as something else. It moves the predictions like any other.

These evaluations are not counted among those of the method.
"""

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor, nn

from vdu.core.errors import DivergenceError, InputError
from vdu.core.modes import evaluating
from vdu.core.rng import generator
from vdu.core.types import Condition
from vdu.data.images import ImageSet
from vdu.diffusion.schedule import batch_at
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.lora import low_rank_layers
from vdu.training.batches import condition_of, encoded

__all__ = ["UNMOVED", "forget_predictions", "relative_change", "require_concepts", "require_finite", "require_moved"]

N_IMAGES, N_PROMPTS, LEVELS = 4, 8, (0.05, 0.3, 0.7)  # ᾱ
LEAST_SHARE = 0.01
UNMOVED = 1e-4
"""The relative change of predictions below which a training is reported to have had no effect."""


def require_concepts(
    original: PipelineDenoiser, images: ImageSet, concepts: Sequence[str], kept: Sequence[str], instead: str | None
) -> None:
    """Refuse to forget prompts that the original hardly tells from what takes their place.

    Args:
        original: a text-to-image model.
        images: of the concepts.
        concepts: prompts to forget.
        kept: other prompts.
        instead: what takes their place; None for the null condition.

    Raises:
        InputError: naming the first such prompt.
    """
    x0 = encoded(original, images.images[:N_IMAGES])

    def under(prompt: str | None) -> Tensor:
        return _predictions(original, x0, original.condition([prompt] * len(x0)))

    null, place = under(None), under(instead)
    usual = median(_distance(under(prompt), null) for prompt in kept[:N_PROMPTS])
    for concept in concepts:
        own = _distance(under(concept), place)
        if own <= LEAST_SHARE * usual:
            raise InputError(
                f"--forget-prompt: under {concept!r} the model predicts what it predicts under {instead or 'no prompt'!r} (mean squared "
                f"difference {own:.2g}; expected at least {LEAST_SHARE:.0%} of {usual:.2g}, which is that of other prompts). It does not "
                "draw this concept, so there is nothing to forget. Look at samples (vdu sample), or continue with --force."
            )


def forget_predictions(denoiser: PipelineDenoiser, images: ImageSet) -> Tensor:
    """Predictions for some forget images under their own condition.

    Args:
        denoiser: the model.
        images: the forget set.

    Returns:
        ε̂ at three noise levels, on the model's device.
    """
    chosen = torch.arange(min(N_IMAGES, len(images)))
    x0 = encoded(denoiser, images.images[chosen])
    return _predictions(denoiser, x0, condition_of(denoiser, images, chosen, "--forget"))


def relative_change(after: Tensor, before: Tensor) -> float:
    """The root mean square of a change, relative to that of what was before.

    Args:
        after: any shape.
        before: likewise.

    Returns:
        ‖after − before‖/‖before‖.

    Examples:
        >>> relative_change(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
        0.1
    """
    return float((after - before).double().norm() / before.double().norm().clamp_min(1e-30))


def require_finite(predictions: Tensor, steps: int) -> None:
    """Refuse a model that diverged in its last step, after which no loss is computed.

    Args:
        predictions: of the trained model.
        steps: of the training, for the message.

    Raises:
        DivergenceError: if one is not finite.
    """
    if not predictions.isfinite().all():
        raise DivergenceError(
            f"diverged at step {steps}: the predictions of the trained model are not finite. Lower the learning rate or the number of "
            "steps, or strengthen the regulariser."
        )


def require_moved(network: nn.Module, original: nn.Module, steps: int) -> None:
    """Refuse a training after which every weight is what it was.

    Args:
        network: trained.
        original: before, on any device.
        steps: of the training, for the message.

    Raises:
        InputError: if no weight differs.
    """
    before, layers = dict(original.named_parameters()), low_rank_layers(network)
    trained = (
        ((f"{name}.weight", layer.full()) for name, layer in layers.items())
        if layers
        else ((name, value) for name, value in network.named_parameters() if value.requires_grad)
    )
    if all(torch.equal(value.detach().to(before[name].device), before[name]) for name, value in trained):
        raise InputError(
            f"unlearn: after {steps} steps no weight differs from the original's, so nothing was forgotten; expected a change. Raise "
            "--learning-rate or --steps, or lower --warmup-steps or --ema-decay."
        )


@torch.no_grad()
def _predictions(denoiser: PipelineDenoiser, x0: Tensor, condition: Condition | None) -> Tensor:
    x0 = x0.to(next(denoiser.network.parameters()))
    noise = torch.randn(x0.shape, generator=generator(0, "effect")).to(x0)
    with evaluating(denoiser.network):
        return torch.stack([
            denoiser.noise(batch_at(x0, noise, level, denoiser.schedule, condition)) for level in LEVELS
        ])


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean())
