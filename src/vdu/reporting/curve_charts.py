"""Inline SVG: several labelled curves with interval bars on common axes, for the probes.

Curves differ by colour, dash and the shape of their marks, and each is named at its end, so that no colour must be told
from another. Colours come from the page's CSS classes. Every text passes through ``Markup.format``, which escapes it.

NOT guaranteed: pixel precision. Beyond 20-fold the steps stand side by side, not to scale, and the picture says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vdu.reporting.charts import nice
from vdu.reporting.formatting import number

__all__ = ["Curve", "curves_plot"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 286, 14, 148
_MARKS = {"after": "circle", "gold": "square", "before": "triangle"}


@dataclass(frozen=True)
class Curve:
    """A named curve.

    Attributes:
        label: its name, drawn at its end.
        points: (x, value, low, high), ascending in x.
        style: CSS suffix: ``after`` (unlearned), ``gold`` (retrained), ``before`` (original).
    """

    label: str
    points: Sequence[tuple[float, float, float, float]]
    style: str


def curves_plot(
    curves: Sequence[Curve],
    summary: str,
    *,
    axis: str,
    percent: bool = True,
    line: tuple[str, float] | None = None,
) -> Markup:
    """Draw curves on common axes, the upright one from 0.

    Args:
        curves: at least one point in all.
        summary: the text for screen readers.
        axis: the name of the level axis.
        percent: values are shares in [0, 1], shown in percent.
        line: name and height of a horizontal line.

    Returns:
        The SVG, 400 units wide; a sentence when there is nothing to draw.
    """
    xs = sorted({point[0] for curve in curves for point in curve.points})
    if not xs:
        return Markup("<p>No points to draw.</p>")
    highest = max([*(p[3] for c in curves for p in c.points), line[1] if line else 0.0])
    top = min(1.0, nice(highest)) if percent else nice(highest)
    top = top or 1.0
    positive = [x for x in xs if x > 0]
    even = len(positive) > 1 and positive[-1] > 20 * positive[0]

    def x_of(x: float) -> float:
        part = xs.index(x) / (len(xs) - 1 or 1) if even else (x - xs[0]) / ((xs[-1] - xs[0]) or 1)
        return _LEFT + 8 + (_RIGHT - _LEFT - 16) * part

    def y_of(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * min(max(value / top, 0.0), 1.0)

    ends = [(curve.label, curve.style, y_of(curve.points[-1][1])) for curve in curves if curve.points]
    drawn = [_draw(curve, x_of, y_of, shift) for shift, curve in zip((0, 3, -3, 6), curves, strict=False)]
    rail = _rail(line[0], y_of(line[1])) if line else Markup("")
    if line:
        ends.append((line[0], "before", y_of(line[1])))
    note = axis + (", not to scale" if even else "")
    return Markup(
        '<svg class="lines" viewBox="0 0 400 186" role="img" aria-label="{}">'
        '<path class="rail" d="M{left} {top}H{right}M{left} {middle}H{right}M{left} {bottom}H{right}"/>{}{}{}{}'
        '<text class="tick" text-anchor="middle" x="{}" y="182">{}</text></svg>'
    ).format(
        summary, rail, Markup("").join(drawn), _labels(ends), _ticks(xs, x_of, top, percent), (_LEFT + _RIGHT) / 2, note,
        left=_LEFT, right=_RIGHT, top=_TOP, bottom=_BOTTOM, middle=(_TOP + _BOTTOM) / 2,
    )  # fmt: skip


def _draw(curve: Curve, x_of, y_of, shift: float) -> Markup:
    """A curve, its interval bars and its marks; ``shift`` keeps the bars of several curves apart."""
    places = [(x_of(x) + shift, y_of(value), y_of(low), y_of(high)) for x, value, low, high in curve.points]
    bars = Markup("").join(
        Markup('<path class="bar" d="M{x:.1f} {:.1f}V{:.1f}"/>').format(low, high, x=x) for x, _, low, high in places
    )
    marks = Markup("").join(_mark(_MARKS[curve.style], x, y) for x, y, _, _ in places)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
    return Markup('<g class="c-{}">{}<polyline points="{}"/>{}</g>').format(curve.style, bars, path, marks)


def _mark(shape: str, x: float, y: float) -> Markup:
    if shape == "circle":
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.6"/>').format(x, y)
    if shape == "square":
        return Markup('<rect x="{:.1f}" y="{:.1f}" width="6.6" height="6.6"/>').format(x - 3.3, y - 3.3)
    return Markup('<path class="mark-up" d="M{:.1f} {:.1f}l4 7h-8z"/>').format(x, y - 4)


def _rail(label: str, y: float) -> Markup:
    return Markup('<path class="level" d="M{} {y:.1f}H{}"><title>{}</title></path>').format(_LEFT, _RIGHT, label, y=y)


def _labels(ends: list[tuple[str, str, float]]) -> Markup:
    """Names at the ends of the curves, moved apart where they would touch, and kept inside."""
    placed, lowest = [], _TOP - 16.0
    for label, style, y in sorted(ends, key=lambda end: end[2]):
        lowest = max(y, lowest + 15)
        placed.append([label, style, lowest])
    over = max(0.0, lowest - _BOTTOM)
    return Markup("").join(
        Markup('<text class="l-{}" x="{}" y="{:.1f}">{}</text>').format(style, _RIGHT + 7, y - over + 4, label)
        for label, style, y in placed
    )


def _ticks(xs: list[float], x_of, top: float, percent: bool) -> Markup:
    upright = [
        Markup('<text class="tick" text-anchor="end" x="{}" y="{:.1f}">{}</text>').format(
            _LEFT - 6,
            _BOTTOM - (_BOTTOM - _TOP) * part + 4,
            f"{100 * top * part:g} %" if percent else number(top * part),
        )
        for part in (0, 0.5, 1)
    ]
    level, last = [], -99.0
    for x in xs:
        place, text = x_of(x), f"{x:g}"
        if place - last >= 12 + 6 * len(text):
            level.append(
                Markup('<text class="tick" text-anchor="middle" x="{:.1f}" y="{}">{}</text>').format(
                    place, _BOTTOM + 16, text
                )
            )
            last = place
    return Markup("").join([*upright, *level])
