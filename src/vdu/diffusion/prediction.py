"""Prediction types of networks, and the conversion to ε̂ and x̂0 at x_t = α x0 + σ ε.

    prediction type    network output          ε̂                  x̂0
    epsilon            ε                       itself              (x_t − σ ε)/α
    v_prediction       v = α ε − σ x0          α v + σ x_t         α x_t − σ v          (α² + σ² = 1)
    sample             x0                      (x_t − α x0)/σ      itself
    flow_prediction    u = ε − x0              x_t + α u           x_t − σ u            (α + σ = 1)

Sources: Ho et al. 2020 (arXiv 2006.11239), Salimans & Ho 2022 (arXiv 2202.00512), Lipman et al. 2023 (arXiv 2210.02747).

Not guaranteed: ε̂ where σ = 0, or x̂0 where α = 0.
"""

from torch import Tensor

__all__ = ["PREDICTION_TYPES", "clean_of", "noise_of"]

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow_prediction")


def noise_of(prediction_type: str, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """ε̂ from a network's output.

    Args:
        prediction_type: one of ``PREDICTION_TYPES``.
        output: of the network, without variance channels, like ``x_t``.
        x_t: noised samples, [batch, …].
        alpha: α, [batch, 1, …].
        sigma: σ, likewise.

    Returns:
        ε̂, like ``x_t``.
    """
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return alpha * output + sigma * x_t
    if prediction_type == "flow_prediction":
        return x_t + alpha * output
    return (x_t - alpha * output) / sigma


def clean_of(prediction_type: str, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x̂0 from a network's output, not clipped; arguments as for :func:`noise_of`.

    Returns:
        x̂0, like ``x_t``.
    """
    if prediction_type == "sample":
        return output
    if prediction_type == "v_prediction":
        return alpha * x_t - sigma * output
    if prediction_type == "flow_prediction":
        return x_t - sigma * output
    return (x_t - sigma * output) / alpha
