"""The state of an unfinished estimation on disk, so that an interrupted one continues with the same bits.

Keys ``<part>/<name>`` in the dtype of the state, ``generator`` (the generator's own state), and the rest in the record; the
format and its checksum are those of :mod:`vdu.posterior.sealed`.

Not guaranteed: equal bits on another kind of device.
"""

from pathlib import Path

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.posterior.protocol import State
from vdu.posterior.sealed import read_sealed, write_sealed

__all__ = ["read_state", "write_state"]

METADATA_KEY = "vdu_estimation"
GENERATOR = "generator"


def write_state(path: Path, state: State, identity: str) -> None:
    """Write the state atomically.

    Args:
        path: the file.
        state: of any estimator.
        identity: of everything that must be equal on resume (model, settings, data).
    """
    tensors = {f"{part}/{name}": tensor for part, named in state.tensors.items() for name, tensor in named.items()}
    devices = {str(tensor.device) for tensor in tensors.values()}
    record = {
        "identity": identity,
        "count": state.count,
        "values": dict(state.values),
        "parts": sorted(state.tensors),
        "device": min(devices, default="cpu"),
        "generator_device": str(state.generator.device) if state.generator else None,
    }
    if state.generator:
        tensors[GENERATOR] = state.generator.get_state()
    write_sealed(path, tensors, record, key=METADATA_KEY)


def read_state(path: Path, identity: str) -> State | None:
    """Read a state.

    Args:
        path: the file.
        identity: as given to :func:`write_state`.

    Returns:
        The state, on its original device; None if there is no file.

    Raises:
        InputError: if the file is damaged, or belongs to another estimation.
    """
    if not path.exists():
        return None
    advice = f"Delete {path.name} to estimate from the beginning."
    tensors, record, sealed = read_sealed(path, key=METADATA_KEY, advice=advice)
    if not sealed:
        raise InputError(f"{path}: damaged (its checksum is missing). {advice}")
    if record["identity"] != identity:
        raise InputError(
            f"{path}: was written with other settings, data or model than the present ones; a resumed run must have the "
            "same. Use the settings in the run's config.toml, or start anew with --overwrite."
        )
    generator = None
    if record["generator_device"]:
        generator = torch.Generator(record["generator_device"])
        generator.set_state(tensors.pop(GENERATOR))
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in record["parts"]}
    for key, tensor in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = tensor.to(record["device"])
    return State(count=record["count"], tensors=parts, values=record["values"], generator=generator)
