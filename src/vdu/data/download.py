"""Fetch a published file once: from a list of mirrors, to a temporary name, verified, then renamed into the cache.

A file with its final name in the cache has passed its check. Later loads repeat the check and report changes.

Not guaranteed: that a mirror remains available. Every message names an alternative without a network.
"""

from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from vdu.core.errors import InputError
from vdu.core.records import atomic_file

__all__ = ["fetch"]

_BLOCK = 1 << 20


def fetch(
    target: Path,
    urls: Sequence[str],
    check: Callable[[Path], Any],
    *,
    max_bytes: int,
    otherwise: str,
    timeout_seconds: float = 30.0,
) -> Path:
    """Make sure that a file is in the cache.

    Args:
        target: its final path; if it exists, nothing is fetched.
        urls: its address on each mirror, tried in order.
        check: raises InputError for a file that is not the published one.
        max_bytes: a longer response is aborted.
        otherwise: an alternative without the network, for the message.
        timeout_seconds: for connecting and for each read.

    Returns:
        ``target``, which exists.

    Raises:
        InputError: if no mirror gave the file; names the file, each mirror with its failure, and ``otherwise``.
    """
    if target.exists():
        return target
    failures = []
    for url in urls:
        try:
            with atomic_file(target) as temporary:
                _download(url, temporary, max_bytes, timeout_seconds)
                check(temporary)
            return target
        except (InputError, URLError, HTTPException, OSError) as error:
            failures.append(f"  {url}: {error}")
    raise InputError("\n".join([f"{target.name}: no mirror gave it.", *failures, f"Without a network: {otherwise}"]))


def _download(url: str, path: Path, max_bytes: int, timeout_seconds: float) -> None:
    from tqdm import tqdm

    with urlopen(url, timeout=timeout_seconds) as answer, open(path, "wb") as file:
        announced = answer.headers.get("Content-Length", "")
        total = int(announced) if announced.isdigit() else None
        bar = tqdm(total=total, desc=url.rsplit("/", 1)[-1], unit="B", unit_scale=True, disable=None)
        with bar:  # on stderr, and only on a terminal
            while block := answer.read(_BLOCK):
                if file.write(block) and file.tell() > max_bytes:
                    raise InputError(f"more than {max_bytes} bytes: not the published file")
                bar.update(len(block))
        if total is not None and file.tell() != total:
            raise InputError(f"the connection ended after {file.tell()} of {total} bytes")
