"""Loading, checking and hashing of diffusers pipeline folders.

Further properties of a model are stored in ``vdu.json`` beside diffusers' files, and in the network's configuration, which a plain
``save_pretrained`` writes too: ``timestep_scale`` (the factor on timesteps), for class-conditional models ``class_names`` and
``null_class``, and for text-to-image models ``prompts``, which samples are drawn under, and ``image_size`` in pixels, where diffusers'
configuration has none.
"""

import copy
import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import nn

from vdu.core.errors import InputError, shown
from vdu.core.processes import say
from vdu.core.records import read_json, sha256_file
from vdu.core.surroundings import own_torch
from vdu.models.adapt import NETWORKS, PARTS, family_of, refuse_parts
from vdu.models.configuration import (
    EXTRAS,
    checked_extra,
    keep_extras,
    odd_options,
    quiet_diffusers,
    refuse_unknown_options,
)
from vdu.models.finding import find_pipeline
from vdu.models.identity import parts_sha256, weights_sha256
from vdu.models.reading import ReadingNetwork
from vdu.models.words import ENCODERS

__all__ = [
    "check_network",
    "configuration_of",
    "hashes_of",
    "load_pipeline",
    "network_of",
    "parts_of",
    "replace_network",
]

EXTRA_FILE = "vdu.json"
CONFIG_HASH = "config_sha256"  # of the network's config.json that vdu.json was written beside
SHARD = r"-\d{5}-of-\d{5}"
LOADED = (*NETWORKS, *ENCODERS, "vae", "vqvae", "safety_checker", "image_encoder")  # each with all of its tensors
LOADING = Lock()  # diffusers patches nn.Module for the whole process while it makes a network
LIBRARIES = (
    "diffusers",
    "transformers",
    "stable_diffusion",
)  # the last is diffusers' name for the place of a safety checker
OWN_NETWORKS = ("vdu.models.ddpm_pytorch",)


@own_torch()
def load_pipeline(path: Path | str, *, as_recorded: bool = True) -> Any:
    """Load a diffusers pipeline folder that plain diffusers (or this package) saved.

    Args:
        path: the folder with ``model_index.json``, or what :func:`vdu.models.finding.find_pipeline` takes for one.
        as_recorded: refuse a pipeline in a run folder whose weights are not those that the run recorded.

    Returns:
        The pipeline, in evaluation mode, with attribute ``timestep_scale`` if the folder's ``vdu.json`` has one.

    Raises:
        InputError: if the folder is not a pipeline, has its weights in two variants and in no other form, needs pickled weights, or holds
            NaN or infinite weights, or with ``as_recorded`` is not what its run made.
    """
    from diffusers import DiffusionPipeline

    path = find_pipeline(path)
    index = _read_index(path / "model_index.json")  # looked at first: other kinds need libraries that may be missing
    parts = {name: part for name, part in index.items() if isinstance(part, list) and part[0]}
    variant = _variant({name: path / name for name in parts if (path / name).is_dir()} or {"": path})
    absent = {name: None for name, part in index.items() if isinstance(part, list) and not part[0] and name in PARTS}
    with LOADING, quiet_diffusers():
        try:
            loaded = {name: _load_part(path, name, variant, *parts[name]) for name in LOADED if name in parts}
            pipeline = DiffusionPipeline.from_pretrained(
                str(path), local_files_only=True, use_safetensors=True, torch_dtype=torch.float32, variant=variant, **loaded,
                **absent,
            )  # fmt: skip
        except InputError:
            raise
        except Exception as error:  # each class of diffusers has errors of its own
            raise InputError(
                f"{path}: diffusers cannot load this pipeline: {_odd_parts(path, parts) or error} Save or download the pipeline again."
            ) from error
    unknown = sorted(
        name
        for name in set(index) - set(inspect.signature(type(pipeline).__init__).parameters)
        if not name.startswith("_") and name not in EXTRAS and index[name] != [None, None]
    )
    if unknown:
        raise InputError(
            f"{path / 'model_index.json'}: has {', '.join(unknown)}, which {type(pipeline).__name__} does not know and diffusers would "
            "ignore. Remove the entry if it has no effect."
        )
    refuse_unknown_options(pipeline.scheduler, f"{path}: scheduler")
    for name, part in loaded.items():
        refuse_unknown_options(part, f"{path}: {name}")
    network = next((name for name in NETWORKS if name in loaded), "")
    if (path / EXTRA_FILE).is_file():
        for name, value in _own_extra(path, network, getattr(loaded.get(network), "config", {})).items():
            setattr(pipeline, name, value)
    for name, part in loaded.items():
        check_network(part, str(path / name))
    keep_extras(pipeline, pipeline, loaded.get(network))
    if network and as_recorded:
        _require_recorded(path.resolve(), pipeline, loaded[network])
    return pipeline


def _require_recorded(path: Path, pipeline: Any, network: nn.Module) -> None:
    """Refuse another model in the place of the one that a run made: whoever names the run means its own."""
    record = path.parent / "run.json"
    run = read_json(record) if path.name == "pipeline" and record.is_file() else None
    if isinstance(run, dict) and run.get("finished") is False:
        raise InputError(
            f"{path}: its run is not finished, so this may be what an earlier part of it made; expected a finished run. Continue the run "
            "with --resume-from-checkpoint latest. To use the pipeline as it is, keep it in a folder of its own."
        )
    made = run.get("pipeline") if isinstance(run, dict) else None
    if not isinstance(made, dict):
        return
    weights, encoders = made.get("sha256"), made.get("parts_sha256")
    same = weights is None or weights == weights_sha256(network)
    if not same or (encoders is not None and encoders != parts_of(pipeline)):
        raise InputError(
            f"{path}: is not what this run made (the hash of its weights or other parts differs from run.json). Make the run "
            "again, or put the pipeline back. To use another pipeline, keep it in a folder of its own."
        )


def _odd_parts(path: Path, parts: Mapping[str, list[str]]) -> str:
    """What :func:`odd_options` finds in the parts of diffusers' classes, as a sentence; empty if nothing."""
    found = []
    for name, (library, kind) in parts.items():
        file = path / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
        if (
            library == "diffusers"
            and isinstance(kind, str)
            and file.is_file()
            and isinstance(config := read_json(file), dict)
        ):
            odd = odd_options(getattr(import_module(library), kind, object), config)
            found += [f"in {file}, {odd}"] if odd else []
    return f"{'; '.join(found)}." if found else ""


def _read_index(path: Path) -> dict[str, Any]:
    """The content of ``model_index.json``, which names the parts as [library, class]."""
    index = read_json(path)
    kinds = (
        [part for name, part in index.items() if isinstance(part, list) and name != "_class_name"]
        if isinstance(index, dict)
        else [[]]
    )
    if not all(
        len(part) == 2 and all(each is None or (isinstance(each, str) and each) for each in part) for part in kinds
    ):
        raise InputError(f"{path}: holds no parts as [library, class]; save or download the pipeline again.")
    own = index.get("_class_name")
    if isinstance(own, list):
        raise InputError(
            f"{path}: names a pipeline class of its own ({'.'.join(map(str, own))}), whose code is not run; expected a class of diffusers. "
            'If the model is a unet and a scheduler, write "DDPMPipeline" as its _class_name.'
        )
    parts = [name for name, part in index.items() if isinstance(part, list) and part[0]]
    refuse_parts(str(path.parent), [name for name in parts if name not in PARTS])
    for library, _ in (index[name] for name in parts):
        if library not in (*LIBRARIES, *OWN_NETWORKS):  # older diffusers import whatever module is named there
            raise InputError(
                f"{path}: takes a part from {library!r}; expected diffusers, transformers or one of {', '.join(OWN_NETWORKS)}, since other "
                "libraries may run code of their own."
            )
        if library == "transformers" and find_spec(library) is None:
            raise InputError(
                f"{path}: its text encoder needs transformers; install it with `pip install '.[text]'` in the clone."
            )
        if library in OWN_NETWORKS:  # diffusers takes a class from a library that has been imported, and from no other
            import_module(library)
    lost = [name for name in parts if not (path.parent / name).is_dir()]
    # of google's first models no part has a folder; transformers would make up a tokenizer that knows no words
    if lost and len(lost) < len(parts):
        raise InputError(f"{path.parent}: has no folder {', '.join(lost)}; save or download the pipeline again.")
    return index


def _variant(folders: Mapping[str, Path]) -> str | None:
    """The variant of the weights, such as "fp16", where a part has them in no other form.

    Args:
        folders: of the parts, by name.

    Returns:
        The variant, which is said on standard error; None where the plain weights are there.

    Raises:
        InputError: if there are several.
    """
    found: dict[str, list[str]] = {}
    for folder in folders.values():
        kinds = {re.sub(SHARD, "", each.name).partition(".")[2] for each in folder.glob("*.safetensors")}
        if "safetensors" not in kinds:
            for kind in kinds:
                found.setdefault(kind.removesuffix(".safetensors"), []).append(folder.name)
    if len(found) > 1:
        raise InputError(
            f"{next(iter(folders.values())).parent}: has its weights as the variants {' and '.join(sorted(found))}, and not as "
            "*.safetensors alone; expected one of them. Remove the files of the other."
        )
    for kind, where in found.items():
        say(
            f"vdu: the weights in {', '.join(sorted(where))} are there as the variant {kind} alone; they are converted to float32."
        )
    return next(iter(found), None)


def _load_part(path: Path, name: str, variant: str | None, library: str, kind: str) -> nn.Module:
    """A part with all of its tensors, and no others; diffusers and transformers only warn of these, and make missing ones up."""
    flat = name in NETWORKS and not (path / name).is_dir()  # google's first models have no folders
    folder = path if flat else path / name
    place = "diffusers.pipelines.stable_diffusion" if library == "stable_diffusion" else library
    chosen = _require_weights(
        folder, "diffusion_pytorch_model" if place == "diffusers" or library in OWN_NETWORKS else "model", variant
    )
    part, info = getattr(import_module(place), kind).from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, torch_dtype=torch.float32, output_loading_info=True, variant=chosen
    )  # fmt: skip
    for which, what in (("missing_keys", "lack"), ("unexpected_keys", "have")):
        if some := sorted(info[which]):
            homeless = "" if what == "lack" else " that its config.json has no place for"
            raise InputError(
                f"{folder}: its weights {what} {len(some)} tensors{homeless} (first: {', '.join(some[:3])}); expected weights and "
                "configuration of one model. Restore the config.json that the model was trained with, or save or download it again."
            )
    return part


def _require_weights(folder: Path, stem: str, variant: str | None) -> str | None:
    """Refuse a folder without safetensors weights under its library's name, by what is there instead.

    Returns:
        The variant to load; None for the plain weights.

    Raises:
        InputError: if there is none.
    """
    if (folder / f"{stem}.safetensors").is_file() or (folder / f"{stem}.safetensors.index.json").is_file():
        return None
    if variant and any(folder.glob(f"{stem}.*{variant}*")):
        return variant
    if any(folder.glob("*.bin")):
        raise InputError(
            f"{folder}: holds pickled weights (.bin) alone. Only safetensors weights are read; pickled weights (.bin) must be converted "
            "first (pipeline.save_pretrained(..., safe_serialization=True))."
        )
    if folder.is_dir():  # else diffusers itself says so
        there = sorted(each.name for each in folder.iterdir() if each.name != "config.json")
        others = f", but {', '.join(there[:3])}" if there else ""
        raise InputError(
            f"{folder}: holds no {stem}.safetensors{others}; expected the weights under that "
            "name. Save or download the pipeline again."
        )
    return None


def network_of(pipeline: Any) -> nn.Module:
    """The network of a pipeline that predicts noise, whatever its family calls it."""
    return getattr(pipeline, family_of(pipeline).NETWORK)


def _own_extra(path: Path, network: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What ``vdu.json`` says of the model in a folder, where a plain ``save_pretrained`` may have put another model since.

    The network's configuration has the same entries, unless an earlier version or a person wrote the file.

    Returns:
        The entries, by name.

    Raises:
        InputError: if the two are of different models.
    """
    held, written = _read_extra(path / EXTRA_FILE), read_json(path / EXTRA_FILE).get(CONFIG_HASH)
    if written is not None and written == config_sha256(path, network):  # a person may have corrected the file
        return held
    for name, value in held.items():
        here, there = (list(each) if isinstance(each, tuple) else each for each in (value, config.get(name)))
        if here != there and (written is not None or (there is not None and name != "prompts")):
            raise InputError(
                f"{path / EXTRA_FILE}: {name} is {_few(here)}, and {'absent' if there is None else _few(there)} in the network's "
                "config.json; expected one model's. Remove vdu.json if it is of an earlier model in this folder; else save the model "
                "again with vdu.save_pipeline."
            )
    return held


def _few(value: Any) -> str:
    """An entry of a configuration in a message; of a list the first three."""
    return (
        f"{', '.join(map(repr, value[:3]))}{' …' if len(value) > 3 else ''}"
        if isinstance(value, list)
        else shown(value)
    )


def config_sha256(path: Path, network: str) -> str | None:
    file = path / network / "config.json"
    return sha256_file(file) if file.is_file() else None


def _read_extra(path: Path) -> dict[str, Any]:
    """The checked content of ``vdu.json``."""
    held = read_json(path)
    if not isinstance(held, dict):
        raise InputError(f"{path}: holds {shown(held)}; expected names and values. Save the pipeline again.")
    known = (*EXTRAS, CONFIG_HASH)
    if strangers := sorted(set(held) - set(known)):
        raise InputError(
            f"{path}: holds {', '.join(map(shown, strangers))}; expected names among {', '.join(known)}. Correct it, or save the "
            "pipeline again."
        )
    return {name: checked_extra(name, held[name], str(path)) for name in EXTRAS if held.get(name) is not None}


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


def configuration_of(pipeline: Any) -> str:
    """:func:`vdu.models.identity.configuration_sha256` of a pipeline."""
    from vdu.models.adapt import adapt
    from vdu.models.identity import configuration_sha256

    return configuration_sha256(adapt(pipeline))


def parts_of(pipeline: Any) -> str | None:
    """:func:`vdu.models.identity.parts_sha256` of a pipeline."""
    from vdu.models.adapt import adapt

    return parts_sha256(adapt(pipeline))


def hashes_of(pipeline: Any) -> dict[str, str]:
    """By what a record knows a model: its network's weights, its options, and the weights of its other parts if it has any.

    Args:
        pipeline: the model.

    Returns:
        ``sha256``, ``configuration_sha256`` and ``parts_sha256``.
    """
    parts = parts_of(pipeline)
    return {
        "sha256": weights_sha256(network_of(pipeline)),
        "configuration_sha256": configuration_of(pipeline),
        **({} if parts is None else {"parts_sha256": parts}),
    }


def replace_network(pipeline: Any, network: nn.Module) -> Any:
    """A new pipeline of the same kind around another network; its other parts are copies, so that no later change of one reaches the other.

    Args:
        pipeline: the pipeline to copy.
        network: its new network, used as it is; also with a text encoder (:mod:`vdu.models.reading`).

    Returns:
        The new pipeline.
    """
    new = {family_of(pipeline).NETWORK: network}
    if isinstance(network, ReadingNetwork):
        new = {family_of(pipeline).NETWORK: network.network, "text_encoder": network.text_encoder}
    parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items() if name not in new}
    made = copy.copy(pipeline)  # keeps what is no part, such as whether a safety checker is required
    with quiet_diffusers():
        made.register_modules(**parts, **new)
    return keep_extras(made, pipeline, new[family_of(pipeline).NETWORK])
