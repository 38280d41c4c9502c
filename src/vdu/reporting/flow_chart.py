"""Inline SVG: what became of the samples of a forgotten class, as a bar that flows apart into the classes they became.

Widths are fractions; names and counts stand at the ends. Every text passes through ``Markup.format``, which escapes it.

NOT guaranteed: completeness; beyond 9 classes the smallest are drawn as one, and the table beside it has them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

__all__ = ["Fate", "flow"]

_MOST, _GAP, _LEAST = 9, 6, 22
_START, _END = 118, 250


@dataclass(frozen=True)
class Fate:
    """A class that samples became.

    Attributes:
        name: the class.
        count: so many samples, at least 1.
        unwanted: it is a class to be forgotten.
    """

    name: str
    count: int
    unwanted: bool


def flow(name: str, fates: Sequence[Fate]) -> Markup:
    """Draw where the samples of one class went.

    Args:
        name: the class that they were.
        fates: what they became, largest first.

    Returns:
        The SVG, 420 units wide.
    """
    total = sum(fate.count for fate in fates)
    shown = list(fates)
    if len(shown) > _MOST:
        rest = [fate for fate in shown[_MOST - 1 :] if not fate.unwanted]
        shown = [fate for fate in shown if fate not in rest]
        shown.append(Fate(f"{len(rest)} other classes", sum(fate.count for fate in rest), False))
    shown = [replace(fate, name=_short(fate.name, 16)) for fate in shown]
    height = 190.0
    tall = [height * fate.count / total for fate in shown]
    rooms = [max(size, _LEAST - _GAP) for size in tall]  # a label needs its line, however thin the stream
    full = sum(rooms) + _GAP * (len(rooms) - 1)
    y_left, y_right, streams = (full - height) / 2, 0.0, []
    for fate, size, room in zip(shown, tall, rooms, strict=True):
        top = y_right + (room - size) / 2
        streams.append(_stream(fate, total, y_left, top, size, y_right + room / 2))
        y_left, y_right = y_left + size, y_right + room + _GAP
    summary = f"Of {total} samples that were {name}: " + ", ".join(f"{f.count} became {f.name}" for f in shown)
    middle = full / 2
    return Markup(
        '<svg class="flow" viewBox="0 -4 420 {:.0f}" role="img" aria-label="{}">{}'
        '<rect class="f-before" x="{}" y="{:.1f}" width="8" height="{:.1f}"/>'
        '<text text-anchor="end" x="{}" y="{:.1f}">was {}</text>'
        '<text class="tick" text-anchor="end" x="{}" y="{:.1f}">{}</text></svg>'
    ).format(
        full + 8, summary, Markup("").join(streams), _START - 8, (full - height) / 2, height,
        _START - 16, middle, _short(name, 11), _START - 16, middle + 17, f"{total:,} images",
    )  # fmt: skip


def _stream(fate: Fate, total: int, left: float, right: float, size: float, middle: float) -> Markup:
    bend = (_START + _END) / 2
    path = (
        f"M{_START} {left:.1f}C{bend} {left:.1f} {bend} {right:.1f} {_END} {right:.1f}V{right + size:.1f}"
        f"C{bend} {right + size:.1f} {bend} {left + size:.1f} {_START} {left + size:.1f}Z"
    )
    return Markup(
        '<path class="stream {k}" d="{}"/><rect class="{k}" x="{}" y="{:.1f}" width="8" height="{:.1f}"/>'
        '<text x="{}" y="{:.1f}">{}<tspan class="tick" dx="7">{}</tspan></text>'
    ).format(
        path, _END, right, max(size, 1.0), _END + 16, middle + 4.5,
        f"{'still ' if fate.unwanted else ''}{fate.name}", f"{fate.count:,} ({100 * fate.count / total:.0f} %)",
        k="f-bad" if fate.unwanted else "f-after",
    )  # fmt: skip


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
