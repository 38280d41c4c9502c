"""The identity of a model as one hash, for cache keys and for checks that a record belongs to this model."""

from vdu.core.checks import hash_parameters
from vdu.core.records import sha256_bytes
from vdu.core.types import Denoiser
from vdu.models.pipelines import hash_configuration

__all__ = ["identity"]


def identity(denoiser: Denoiser) -> str:
    """SHA-256 of the weights and of everything else that determines a model's samples.

    Args:
        denoiser: the model; its weights are read once.

    Returns:
        64 hexadecimal digits. Weights, network and scheduler configuration, what timesteps are multiplied by, and the classes count;
        the device does not.
    """
    parts = (
        hash_parameters(denoiser.network.state_dict()),
        hash_configuration(getattr(denoiser.network, "config", {}), denoiser.scheduler_config),
        float(getattr(denoiser, "timestep_scale", 1.0)),
        tuple(denoiser.class_names),
    )
    return sha256_bytes(repr(parts).encode())
