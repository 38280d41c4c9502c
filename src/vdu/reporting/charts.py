"""Inline SVG: the class bars, the interval plot and the loss curves. Colours come from the page's CSS classes.

Every text passes through ``Markup.format``, which escapes it; every chart stands beside or inside the numbers it draws.

NOT guaranteed: pixel precision; long logs are thinned to their running mean and range.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vdu.reporting.formatting import number

__all__ = ["IntervalRow", "class_bars", "interval_plot", "line_chart", "nice", "share_bar"]

_MAX_POINTS = 240


def class_bars(before: int, after: int, expected: float, largest: float) -> Markup:
    """Two bars and a tick for one class: before, after, expected; hidden from screen readers, which get the numbers.

    Args:
        before: images of the class by the original.
        after: images of the class by the unlearned model.
        expected: images expected of a perfect unlearning.
        largest: the count that fills the width.

    Returns:
        The SVG.
    """
    width = [f"{100 * value / max(largest, 1e-9):.2f}%" for value in (before, after, expected)]
    return Markup(
        '<svg class="bars" width="100%" height="22" aria-hidden="true" focusable="false">'
        '<rect class="f-before" y="2" height="8" rx="1.5" width="{}"/>'
        '<rect class="f-after" y="12" height="8" rx="1.5" width="{}"/>'
        '<line class="s-expected" x1="{}" x2="{}" y1="0" y2="22"/></svg>'
    ).format(*width, width[2])


def share_bar(share: float, style: str = "f-after") -> Markup:
    """One bar that fills a share of the width.

    Args:
        share: in [0, 1].
        style: CSS class of the fill.

    Returns:
        The SVG.
    """
    return Markup(
        '<svg class="bars" width="100%" height="14" aria-hidden="true" focusable="false">'
        '<rect class="{}" y="2" height="10" rx="1.5" width="{}"/></svg>'
    ).format(style, f"{100 * min(max(share, 0.0), 1.0):.2f}%")


@dataclass(frozen=True)
class IntervalRow:
    """A labelled value with its interval; ``style`` is the CSS suffix (``before``, ``after``, ``muted``)."""

    label: str
    value: float
    low: float
    high: float
    style: str


def interval_plot(
    rows: Sequence[IntervalRow], summary: str, *, start: float, end: float, mark: float | None = None
) -> Markup:
    """Dots with interval bars on one axis.

    Args:
        rows: from top to bottom.
        summary: the text for screen readers.
        start: the axis starts here or a little lower, at a round number.
        end: it ends here or a little higher.
        mark: where to draw the dashed line, if anywhere.

    Returns:
        The SVG, 420 units wide.
    """
    start, end = 0.0 - nice(-start), nice(end)
    end = end if end > start else start + 1.0

    def x(value: float) -> str:
        return f"{8 + 404 * (min(max(value, start), end) - start) / (end - start):.1f}"

    parts, bottom = [], 34 * len(rows)
    for i, row in enumerate(rows):
        y = 34 * i + 25
        parts.append(
            Markup(
                '<text x="8" y="{}">{}</text><line class="rail" x1="8" x2="412" y1="{y}" y2="{y}"/>'
                '<line class="s-{s}" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
                '<circle class="f-{s}" cx="{}" cy="{y}" r="5.5"/>'
            ).format(y - 10, _short(row.label, 56), x(row.low), x(row.high), x(row.value), y=y, s=row.style)
        )
    if mark is not None:
        parts.append(Markup('<line class="mark" x1="{x}" x2="{x}" y1="14" y2="{}"/>').format(bottom + 3, x=x(mark)))
    ticks = Markup("").join(
        Markup('<text class="tick" text-anchor="{}" x="{}" y="{}">{}</text>').format(
            anchor, x(at), bottom + 16, f"{at:g}".replace("-", "−")
        )
        for anchor, at in (("start", start), ("middle", (start + end) / 2), ("end", end))
    )
    return Markup('<svg class="intervals" viewBox="0 0 420 {}" role="img" aria-label="{}">{}{}</svg>').format(
        bottom + 20, summary, Markup("").join(parts), ticks
    )


def line_chart(steps: Sequence[float], values: Sequence[float], title: str) -> Markup:
    """A curve over steps: range of each stretch as a band, its mean as a line; logarithmic when it spans ≥ 100-fold.

    Args:
        steps: ascending step numbers.
        values: one value per step; others than finite numbers are left out.
        title: the curve's name.

    Returns:
        The SVG, or a sentence when there is nothing to draw.
    """
    points = [(s, v) for s, v in zip(steps, values, strict=True) if _finite(s) and _finite(v)]
    if not points:
        return Markup("<p>{}: no finite values were logged.</p>").format(title)
    logarithmic = min(v for _, v in points) > 0 and max(v for _, v in points) >= 100 * min(v for _, v in points)
    scale = math.log10 if logarithmic else float
    stretches = _stretches([(float(s), scale(v)) for s, v in points])
    (s0, s1), (v0, v1) = _span(s for s, *_ in stretches), _span(v for _, low, _, high in stretches for v in (low, high))

    def at(step: float, value: float) -> str:
        return f"{52 + 300 * (step - s0) / (s1 - s0):.1f},{122 - 108 * (value - v0) / (v1 - v0):.1f}"

    line = " ".join(at(s, mean) for s, _, mean, _ in stretches)
    band = " ".join([
        *(at(s, high) for s, _, _, high in stretches),
        *(at(s, low) for s, low, _, _ in reversed(stretches)),
    ])
    low, high = (10**v0, 10**v1) if logarithmic else (v0, v1)
    label = (
        f"{title}: from {number(points[0][1])} to {number(points[-1][1])} over steps {points[0][0]} to {points[-1][0]}"
    )
    note = "log scale" if logarithmic else ""
    return Markup(
        '<svg class="curve" viewBox="0 0 360 142" role="img" aria-label="{}. {}">'
        '<path class="rail" d="M52 14H352M52 68H352M52 122H352"/><polygon class="band" points="{}"/>'
        '<polyline class="s-after" points="{}"/><text class="tick" text-anchor="end" x="46" y="18">{}</text>'
        '<text class="tick" text-anchor="end" x="46" y="126">{}</text><text class="tick" x="52" y="138">{}</text>'
        '<text class="tick" text-anchor="end" x="352" y="138">step {}</text>'
        '<text class="tick" text-anchor="end" x="352" y="11">{}</text></svg>'
    ).format(label, note, band, line, number(high), number(low), points[0][0], points[-1][0], note)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def nice(value: float) -> float:
    """Return the next round number, such that its half is round as well; 0 for what is not positive."""
    if value <= 0:
        return 0.0
    unit = 10 ** math.floor(math.log10(value))
    return next(unit * m for m in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if unit * m >= value * (1 - 1e-9))


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _span(values) -> tuple[float, float]:
    listed = list(values)
    low, high = min(listed), max(listed)
    if low < high:
        return low, high
    margin = abs(low) / 2 or 0.5
    return low - margin, high + margin


def _stretches(points: list[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """Return (middle step, lowest, mean, highest) of at most 240 consecutive stretches of the points."""
    size = max(1, math.ceil(len(points) / _MAX_POINTS))
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [
        (sum(s for s, _ in c) / len(c), min(v for _, v in c), sum(v for _, v in c) / len(c), max(v for _, v in c))
        for c in chunks
    ]
