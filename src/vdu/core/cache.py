"""The one folder for downloads and for tensors that are computed once per model; checksums are verified on reading.

It is $VDU_CACHE, or vdu/ in $XDG_CACHE_HOME, or ~/.cache/vdu; delete it at any time. Models of the Hugging Face Hub are in the Hub's own
cache. Results for the packaged models that the demo needs are part of the package (``vdu/zoo/cache``, made by
``tools/make_demo_cache.py``).
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vdu.core.checks import hash_parameters
from vdu.core.paths import given_path, home_cache
from vdu.core.processes import say
from vdu.core.records import atomic_file

__all__ = ["PACKAGED", "cache_folder", "read_cached", "write_cached"]

PACKAGED = Path(__file__).parents[1] / "zoo" / "cache"


def cache_folder(given: Path | str | None = None) -> Path:
    """The folder for downloads and cached results.

    Args:
        given: a folder of the caller's choice.

    Returns:
        That folder, else ``$VDU_CACHE``, else ``$XDG_CACHE_HOME/vdu``, else ``~/.cache/vdu``; it need not exist. Without a home
        folder, one that lasts as long as this process.
    """
    if given is not None:
        return given_path(given, "cache_dir")
    if own := os.environ.get("VDU_CACHE"):
        return given_path(own, "VDU_CACHE")
    general = os.environ.get("XDG_CACHE_HOME")
    base = given_path(general, "XDG_CACHE_HOME") if general else home_cache()
    return _until_the_end() if base is None else base / "vdu"


@cache
def _until_the_end() -> Path:
    """A folder that is removed when this process ends, for a user without a home folder."""
    folder = tempfile.mkdtemp(prefix="vdu-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    say("vdu: this user has no home folder, so nothing is cached for later; VDU_CACHE names a folder for it.")
    return Path(folder)


def read_cached(path: Path, what: str) -> dict[str, Tensor] | None:
    """The tensors of a file in the cache.

    Args:
        path: the file, in a folder of the cache; one of the same folder and name in the package serves as well.
        what: subject and verb for the message, such as "the samples are".

    Returns:
        The tensors; None if the file is missing or damaged. Damage is reported on standard error, since an undetected flipped
        bit would affect every number.
    """
    try:
        path = path if path.exists() else PACKAGED / path.parent.name / path.name
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            expected = (file.metadata() or {}).get("sha256")
        trouble = None if expected == hash_parameters(tensors) else "its SHA-256 differs from the recorded one"
    except (SafetensorError, OSError, ValueError) as error:
        tensors, trouble = {}, error
    if trouble:
        say(f"vdu: {path}: cannot be read ({trouble}); {what} made again.")
        return None
    return tensors


def write_cached(path: Path, tensors: Mapping[str, Tensor], what: str) -> bool:
    """Write tensors to the cache.

    Args:
        path: the file.
        tensors: by name.
        what: subject and verb for the message, such as "these samples are".

    Returns:
        Whether they were written; if not, the reason is printed to standard error.
    """
    whole: dict[str, Tensor] = {}
    for name, value in tensors.items():
        each = value.detach().cpu().contiguous()
        tied = any(each.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() for other in whole.values())
        whole[name] = each.clone() if tied else each  # safetensors refuses tensors that share memory
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            save_file(whole, temporary, {"sha256": hash_parameters(whole)})
    except (SafetensorError, OSError) as error:  # the former on a full disk
        say(f"vdu: {path}: cannot be written ({error}); {what} not cached.")
        return False
    return True
