"""Which image pairs are shown, and their pixels: two PNG sprites, one before and one after, cell k of both is pair k.

Order: pairs where the original made the forget class, or was asked for it with a prompt, come first, those that remain before the
others; then other pairs: those that became the forget class before the rest. Each part is in seed order (nothing is picked by eye).

Hiding is done to the pixels: an image is averaged down to 2 × 2 blocks (3 × 3 from 24 pixels on) before it is
embedded, so the page holds no more of it than is seen. NOT guaranteed: that the judge recognises every unwanted image;
what it misses is shown.
"""

import base64
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vdu.reporting.collect import ReportData

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Pair", "Sprites", "hide", "make_sprites", "needs_cover", "select_pairs"]

COLUMNS = 12
_PUBLIC = {"mnist", "mnist-mini", "cifar10", "digits"}  # forget sets that nobody need be spared
_MAX_PAIRS, _MAX_SIDE = 120, 96
_SCREEN, _NARROW_SCREEN = 96, 84  # most screen pixels for one picture
_PIXEL_BUDGET = 3_000_000  # bytes before PNG, both sprites: 4/3 of it as base64 leaves 1 MB of the 5 MB for the page


@dataclass(frozen=True)
class Pair:
    """One starting noise and what the two models made of it.

    Attributes:
        index: row in the sample files.
        cell: position in the sprites.
        seed: seed of the starting noise.
        before: class name by the original; ``before_share`` its confidence in percent.
        after: class name by the unlearned model; ``after_share`` its confidence in percent.
        was_forget: the original made the forget class.
        is_forget: the unlearned model made it.
        asked: the prompt or label of both; None for unconditional models.
        first: whether it is of the first group: the original made the forget class, or was asked for it with a prompt.
    """

    index: int
    cell: int
    seed: int
    before: str
    before_share: float
    after: str
    after_share: float
    was_forget: bool
    is_forget: bool
    asked: str | None = None
    first: bool = False


@dataclass(frozen=True)
class Sprites:
    """Two sprites.

    Attributes:
        before: data URI of a PNG, 12 cells wide.
        after: the same for the unlearned model.
        width: of a cell, in pixels.
        height: of a cell, in pixels.
        zoom: screen pixels that one pixel takes on a wide screen.
        narrow_zoom: the same on a narrow one.
        rows: rows of cells.
        shrunk: the pictures are smaller than the samples.
    """

    before: str
    after: str
    width: int
    height: int
    zoom: int
    narrow_zoom: int
    rows: int
    shrunk: bool


def needs_cover(data: ReportData) -> bool:
    """Whether unwanted images are covered until a reader uncovers them: unless the forget set is a packaged or public data set."""
    forget = (data.run.get("inputs") or {}).get("forget")
    return not isinstance(forget, dict) or forget.get("source") not in _PUBLIC


def select_pairs(data: ReportData) -> list[Pair]:
    """Choose the pairs to show.

    Args:
        data: the collected run.

    Returns:
        At most 120 pairs, fewer when the images are large; their order is described in the module's docstring.
    """
    import numpy as np

    was, now = (np.isin(samples.judge_class, data.forget_ids) for samples in (data.original, data.unlearned))
    limit = min(_MAX_PAIRS, _PIXEL_BUDGET // (2 * _shrink(data.original.images[:1]).nbytes))
    asks = was if data.asks_for_it is None else data.asks_for_it
    first = np.concatenate([np.flatnonzero(asks & now), np.flatnonzero(asks & ~now)])[: limit * 3 // 5]
    others = np.concatenate([np.flatnonzero(~asks & now), np.flatnonzero(~asks & ~now)])
    chosen = [*first, *others[: limit * 2 // 5 if len(first) else limit]]
    pairs = [_pair(data, int(i), cell, bool(was[i]), bool(now[i])) for cell, i in enumerate(chosen)]
    return [replace(pair, asked=data.asked(pair.index), first=bool(asks[pair.index])) for pair in pairs]


def _pair(data: ReportData, i: int, cell: int, was: bool, now: bool) -> Pair:
    before, after = data.original, data.unlearned
    return Pair(
        index=i,
        cell=cell,
        seed=int(before.seeds[i]),
        before=data.classes[before.judge_class[i]],
        before_share=100 * float(before.judge_confidence[i]),
        after=data.classes[after.judge_class[i]],
        after_share=100 * float(after.judge_confidence[i]),
        was_forget=was,
        is_forget=now,
    )


def make_sprites(data: ReportData, pairs: list[Pair], *, hide_forgotten: bool) -> Sprites:
    """Draw the pairs into two sprites.

    Args:
        data: the collected run.
        pairs: what to draw, in order of their cells.
        hide_forgotten: average unwanted images down to blocks; all images when the forget class is not known.

    Returns:
        The sprites.
    """
    indices = [pair.index for pair in pairs]
    unknown = not data.forget_ids
    before, after = data.original.images[indices], data.unlearned.images[indices]
    if hide_forgotten:
        before = hide(before, [unknown or pair.was_forget or pair.first for pair in pairs])
        after = hide(after, [unknown or pair.is_forget for pair in pairs])
    before, after = _shrink(before), _shrink(after)
    _, height, width, _ = before.shape
    zoom, narrow_zoom = (max(1, room // max(height, width)) for room in (_SCREEN, _NARROW_SCREEN))
    rows = -(-len(pairs) // COLUMNS)
    return Sprites(
        _uri(before), _uri(after), width, height, zoom, narrow_zoom, rows, width < data.original.images.shape[2]
    )


def hide(images: "np.ndarray", which: list[bool]) -> "np.ndarray":
    """Average images down to 2 or 3 blocks a side, in their own size.

    Args:
        images: uint8 [K, H, W, C].
        which: K flags, the images to hide.

    Returns:
        A new array; images that are not flagged keep their pixels.
    """
    import numpy as np

    hidden = images.copy()
    blocks = [np.array_split(np.arange(side), 3 if side >= 24 else 2) for side in images.shape[1:3]]
    flagged = np.flatnonzero(which)
    for rows in blocks[0]:
        for columns in blocks[1]:
            if rows.size and columns.size:
                cell = np.ix_(flagged, rows, columns)
                hidden[cell] = images[cell].mean(axis=(1, 2), keepdims=True).round().astype(np.uint8)
    return hidden


def _shrink(images: "np.ndarray") -> "np.ndarray":
    """Return images whose longer side is at most 96, by area averaging where they are larger."""
    import numpy as np
    from PIL import Image

    _, height, width, channels = images.shape
    ratio = max(height, width) / _MAX_SIDE
    if ratio <= 1:
        return images
    size = (max(1, round(width / ratio)), max(1, round(height / ratio)))
    small = [np.asarray(Image.fromarray(_drawable(image)).resize(size, Image.Resampling.BOX)) for image in images]
    return np.stack(small).reshape(len(images), size[1], size[0], channels)


def _drawable(image: "np.ndarray") -> "np.ndarray":
    return image[..., 0] if image.shape[-1] == 1 else image


def _uri(images: "np.ndarray") -> str:
    import numpy as np
    from PIL import Image

    n, height, width, channels = images.shape
    rows = -(-n // COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width, channels), np.uint8)
    sheet[:n] = images
    sheet = sheet.reshape(rows, COLUMNS, height, width, channels).swapaxes(1, 2)
    file = io.BytesIO()
    Image.fromarray(_drawable(sheet.reshape(rows * height, COLUMNS * width, channels))).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
