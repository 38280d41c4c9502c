"""u-FID of what was to stay: where many unwanted images remain, of the other images alone.

Unwanted images are counted by PUL. Left in, they would raise a distance to images without them, and read as damage to the rest.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["rest_u_fid"]

APART = {"unlearned": "u_fid", "filtered_original": "floor"}  # of as many images as the unlearned model has left


def rest_u_fid(metrics: Mapping[str, Any], name: str) -> tuple[dict[str, float] | None, int]:
    """The distance of a model's images that are not unwanted.

    Args:
        metrics: the content of ``metrics.json``.
        name: of a row: "unlearned", or "filtered_original", whose images are as many. Of the others all images count.

    Returns:
        u-FID with its interval, or None where it was not measured or too few images are left; and the number of these images.
    """
    apart = (metrics.get("kept") or {}).get("apart")
    if apart is not None and name in APART:
        return apart[APART[name]], apart["n_images"]
    row = next((each for each in metrics["rows"] if each["name"] == name), {})
    return row.get("u_fid"), metrics["n_images"]
