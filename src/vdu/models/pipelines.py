"""Loading, checking, saving and hashing of diffusers pipeline folders.

Further properties of a model are stored in ``vdu.json`` beside diffusers' files: ``timestep_scale`` (the factor on timesteps)
for class-conditional models ``class_names`` and ``null_class``, and for text-to-image models ``prompts``, which samples are drawn
under, and ``image_size`` in pixels, where diffusers' configuration has none.
"""

import copy
import json
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.core.records import read_json, sha256_bytes, write_json
from vdu.models.adapt import NETWORKS, PARTS, family_of, refuse_parts

__all__ = [
    "check_network",
    "configuration_of",
    "find_pipeline",
    "hash_configuration",
    "load_pipeline",
    "network_of",
    "replace_network",
    "save_pipeline",
]

EXTRA_FILE = "vdu.json"
EXTRAS = (
    "timestep_scale",
    "class_names",
    "null_class",
    "prompts",
    "image_size",
)  # attributes of a pipeline that diffusers lacks
HUB_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"
LIBRARIES = (
    "diffusers",
    "transformers",
    "stable_diffusion",
)  # the last is diffusers' name for the place of a safety checker
OWN_NETWORKS = ("vdu.models.ddpm_pytorch",)


def load_pipeline(path: Path | str) -> Any:
    """Load a diffusers pipeline folder that plain diffusers (or this package) saved.

    Args:
        path: the folder with ``model_index.json``, or what :func:`find_pipeline` takes for one.

    Returns:
        The pipeline, in evaluation mode, with attribute ``timestep_scale`` if the folder's ``vdu.json`` has one.

    Raises:
        InputError: if the folder is not a pipeline, needs pickled weights, or holds NaN or infinite weights.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    path = find_pipeline(path)
    index = read_json(path / "model_index.json")  # looked at first: other kinds need libraries that may be missing
    kinds = [part for part in index.values() if isinstance(part, list)] if isinstance(index, dict) else [[]]
    if not all(
        len(part) == 2 and all(each is None or (isinstance(each, str) and each) for each in part) for part in kinds
    ):
        raise InputError(
            f"{path / 'model_index.json'}: holds no parts as [library, class]; save or download the pipeline again."
        )
    parts = [name for name, part in index.items() if isinstance(part, list) and part[0]]
    refuse_parts(str(path), [name for name in parts if name not in PARTS])
    for library, _ in (index[name] for name in parts):
        if library not in (*LIBRARIES, *OWN_NETWORKS):  # older diffusers import whatever module is named there
            raise InputError(
                f"{path / 'model_index.json'}: takes a part from {library!r}; expected diffusers, transformers or one of "
                f"{', '.join(OWN_NETWORKS)}, since other libraries may run code of their own."
            )
        if library == "transformers" and find_spec(library) is None:
            raise InputError(f"{path}: its text encoder needs transformers; install it with `pip install 'vdu[text]'`.")
        if library in OWN_NETWORKS:  # diffusers takes a class from a library that has been imported, and from no other
            import_module(library)
    absent = {name: None for name, part in index.items() if isinstance(part, list) and not part[0] and name in PARTS}
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        pipeline = DiffusionPipeline.from_pretrained(str(path), local_files_only=True, use_safetensors=True, **absent)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: diffusers cannot load this pipeline: {error} Only safetensors weights are read; "
            "pickled weights (.bin) must be converted first (pipeline.save_pretrained(..., safe_serialization=True))."
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    if (path / EXTRA_FILE).is_file():
        for name, value in _read_extra(path / EXTRA_FILE).items():
            setattr(pipeline, name, value)
    for name in NETWORKS:
        check_network(getattr(pipeline, name, None), str(path))
    return pipeline


def find_pipeline(source: Path | str) -> Path:
    """The pipeline folder that a name stands for.

    Args:
        source: a pipeline folder; a run folder, whose ``pipeline/`` is meant; or, if there is no such folder, the name of a model on
            the Hugging Face Hub (``org/name``), of which the JSON and safetensors files are fetched.

    Returns:
        The folder with ``model_index.json``. What is used instead of the given folder is printed to standard error.

    Raises:
        InputError: if there is no pipeline; it names what was found and what to type.
    """
    path = Path(source).expanduser()
    if (path / "model_index.json").is_file():
        return path
    if (path / "pipeline" / "model_index.json").is_file():
        print(f"vdu: {path} is a run folder; its pipeline {path / 'pipeline'} is used.", file=sys.stderr, flush=True)
        return path / "pipeline"
    if not path.exists() and re.fullmatch(HUB_NAME, path.as_posix()):
        return _from_hub(path.as_posix())
    raise InputError(_no_pipeline(path))


def _from_hub(name: str) -> Path:
    """The folder of a model of the Hub in the local cache; fetched if it is not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    print(f"vdu: {name} is no folder here; it is looked up on the Hugging Face Hub.", file=sys.stderr, flush=True)
    local = f"For a folder of that name check the path from {Path.cwd()}; a folder is preferred to the Hub."
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except RepositoryNotFoundError:
        raise InputError(
            f"{name}: no such folder here, and no such model on the Hugging Face Hub (or a private one: run `hf auth login`). {local}"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name}: no such folder here, and the Hugging Face Hub cannot be reached ({reason}). Connect and try again, or fetch the "
            f"model elsewhere with `hf download {name} --local-dir {name.split('/')[1]}` and give that folder. {local}"
        ) from None
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"{name}: this model of the Hugging Face Hub has no model_index.json, so it is no diffusers pipeline. Choose another one."
        )
    return folder


def _no_pipeline(path: Path) -> str:
    """What is in the place of a pipeline, and what to type instead."""
    if not path.exists():
        return (
            f"{path}: no such folder, so no model_index.json there; expected a pipeline folder, the folder of a run, or a model of the "
            "Hugging Face Hub as org/name."
        )
    if path.is_file():
        if path.suffix in {".ckpt", ".pt", ".pth", ".safetensors"}:
            return (
                f"{path}: is a file of weights; expected a pipeline folder. Make one with `vdu import ARCHITECTURE {path} OUT` "
                "(`vdu import --help` lists the architectures), or give the folder that holds model_index.json."
            )
        return f"{path}: is a file; expected a pipeline folder (with model_index.json)."
    if (path / "config.json").is_file():  # a single network, as UNet2DModel.save_pretrained writes it
        if (path.resolve().parent / "model_index.json").is_file():
            return f"{path}: is only a part of a pipeline; give the folder above, {path.resolve().parent}."
        return (
            f"{path}: is a network without a scheduler; expected a whole pipeline. In Python: DDPMPipeline(unet=UNet2DModel"
            f'.from_pretrained("{path}"), scheduler=DDPMScheduler()).save_pretrained("my-ddpm"), with the scheduler it was trained with.'
        )
    if (path / "run.json").is_file():
        inside = sorted(each.parent for each in path.glob("*/pipeline/model_index.json"))
        if inside:
            return f"{path}: holds several pipelines; did you mean {inside[0]}?"
        return f"{path}: is a run folder without a pipeline: the run is not finished, or of a verb that makes none."
    below = sorted(each.parent for each in path.glob("*/model_index.json"))
    below += sorted(each.parent for each in path.glob("*/pipeline/model_index.json"))
    hint = f" Did you mean {below[0]}?" if below else ""
    return (
        f"{path}: no model_index.json there; expected a folder that a diffusers pipeline's save_pretrained wrote.{hint}"
    )


def network_of(pipeline: Any) -> nn.Module:
    """The network of a pipeline that predicts noise, whatever its family calls it."""
    return getattr(pipeline, family_of(pipeline).NETWORK)


def _read_extra(path: Path) -> dict[str, Any]:
    """The checked content of ``vdu.json``."""
    extra = read_json(path)
    scale = extra.get("timestep_scale", 1.0) if isinstance(extra, dict) else None
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < 1e9:
        raise InputError(f"{path}: timestep_scale is {scale!r}; expected a number above 0. Save the pipeline again.")
    null_class = extra.get("null_class")
    lists = {name: extra[name] for name in ("class_names", "prompts") if extra.get(name) is not None}
    for name, value in lists.items():
        words = isinstance(value, list) and value and all(isinstance(each, str) for each in value)
        if not words or (name == "class_names" and not all(value)):  # a prompt may be empty
            raise InputError(f"{path}: {name} is {value!r}; expected a list of names. Save the pipeline again.")
    size = extra.get("image_size")
    for name, value in (("null_class", null_class), ("image_size", size)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise InputError(f"{path}: {name} is {value!r}; expected a whole number or null. Save the pipeline again.")
    found: dict[str, Any] = {"timestep_scale": float(scale)} if "timestep_scale" in extra else {}
    found |= {name: tuple(value) for name, value in lists.items()}
    found |= {"image_size": size} if size is not None else {}
    return found | ({"null_class": null_class} if null_class is not None else {})


def check_network(network: nn.Module | None, where: str) -> None:
    """Raise an error for a network with missing, NaN or infinite weights.

    Raises:
        InputError: naming the first such tensors.
    """
    if network is None:
        return
    missing = [name for name, value in network.state_dict().items() if value.is_meta]  # diffusers only warns
    if missing:
        raise InputError(
            f"{where}: lacks {len(missing)} tensors of its network (first: {', '.join(missing[:3])}); expected all of them. "
            "The weights are of another model or incomplete: save or download the pipeline again."
        )
    bad = [name for name, value in network.state_dict().items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise InputError(
            f"{where}: NaN or infinite weights in {len(bad)} tensors (first: {', '.join(bad[:3])}); expected finite weights. "
            "The checkpoint is damaged or its training diverged: use another one."
        )


def hash_configuration(unet_config: Mapping[str, Any], scheduler_config: Mapping[str, Any]) -> str:
    """SHA-256 of a pipeline's configuration: the same weights under another schedule generate other images.

    Args:
        unet_config: the network's configuration; entries with a leading underscore (paths, versions) do not count.
        scheduler_config: the scheduler's, likewise.

    Returns:
        64 hexadecimal digits.
    """
    parts = {
        name: {key: value for key, value in config.items() if not key.startswith("_")}
        for name, config in (("unet", unet_config), ("scheduler", scheduler_config))
    }
    return sha256_bytes(json.dumps(parts, sort_keys=True, default=str).encode())


def configuration_of(pipeline: Any) -> str:
    """:func:`hash_configuration` of a pipeline's network and scheduler."""
    network: Any = network_of(pipeline)
    return hash_configuration(network.config, pipeline.scheduler.config)


def save_pipeline(pipeline: Any, path: Path | str) -> None:
    """Save a pipeline in diffusers' layout (safetensors), with ``vdu.json`` beside it where diffusers has no field for something."""
    pipeline.save_pretrained(str(path), safe_serialization=True)
    extra = {name: getattr(pipeline, name) for name in EXTRAS if getattr(pipeline, name, None) is not None}
    if extra.get("timestep_scale") == 1.0:
        del extra["timestep_scale"]
    if extra:
        write_json(Path(path) / EXTRA_FILE, extra)


def replace_network(pipeline: Any, network: nn.Module) -> Any:
    """A new pipeline of the same kind around another network; scheduler and tokenizers are copied, other networks are shared.

    Args:
        pipeline: the pipeline to copy.
        network: its new network, used as it is.

    Returns:
        The new pipeline.
    """
    changed = family_of(pipeline).NETWORK
    parts = {
        name: part if isinstance(part, nn.Module) else copy.deepcopy(part)
        for name, part in pipeline.components.items()
        if name != changed
    }
    made = copy.copy(pipeline)  # keeps what is no part: whether a safety checker is required, names of classes
    made.register_modules(**parts, **{changed: network})
    return made
