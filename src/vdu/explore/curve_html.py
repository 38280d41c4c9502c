"""The trade-off along the checkpoints as a chart (SVG) and as a table.

Every text passes through ``Markup.format``, which escapes it.
"""

import math
from collections.abc import Callable, Mapping

from markupsafe import Markup

from vdu.explore.tradeoff import Curve, Point
from vdu.reporting.formatting import interval, number, percent

__all__ = ["curve_table", "draw_curves"]

_COLOURS = 6
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 430, 64, 52, 26, 24
_Scale = Callable[[float], float]


def draw_curves(curves: Mapping[str, Curve], run: str, checkpoint: str) -> str:
    """PUL against u-FID: a line per run, a dot per checkpoint, the chosen one with its intervals.

    Args:
        curves: by title of the run.
        run: title of the run whose checkpoint is chosen.
        checkpoint: name of the chosen checkpoint.

    Returns:
        HTML with one SVG.
    """
    points = [point for curve in curves.values() for point in curve.points.values()]
    goals = [curve.goal["value"] for curve in curves.values()]
    highest = _round_up(max([point.u_fid["value"] for point in points] + goals) * 1.08)
    lowest = min(0.0, math.floor(min(point.gone for point in points) / 10) * 10.0)

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(value, highest) / highest

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * (max(value, lowest) - lowest) / (100 - lowest)

    parts = [_axes(x, y, highest, lowest)]
    for place, (title, curve) in enumerate(curves.items()):
        parts += [_goal(curve, title, place % _COLOURS, x), _line(curve, title, place % _COLOURS, x, y)]
    chosen = curves[run].points.get(checkpoint)
    if chosen:
        label = next(each.label for each in curves[run].checkpoints if each.name == checkpoint)
        parts.append(_highlight(chosen, checkpoint, label, list(curves).index(run) % _COLOURS, x, y))
    legend = Markup("").join(
        Markup('<li><i class="vdu-c{}"></i>{}</li>').format(place % _COLOURS, title)
        for place, title in enumerate(curves)
    )
    return Markup(
        '<svg class="vdu-curve" viewBox="0 0 {} {}" role="img" aria-label="PUL against u-FID, one dot per checkpoint">{}</svg>'
        '<ul class="vdu-legend">{}<li><i class="vdu-dash"></i>filtered original</li></ul>'
    ).format(_WIDTH, _HEIGHT, Markup("").join(parts), legend)


def curve_table(curve: Curve, checkpoint: str) -> str:
    """The numbers of one run's dots.

    Args:
        curve: of the run.
        checkpoint: name of the highlighted checkpoint.

    Returns:
        HTML.
    """
    rows = Markup("").join(
        Markup("<tr{}><th scope=row>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>").format(
            Markup(' class="vdu-chosen" aria-current="true"') if each.name == checkpoint else "",
            each.label,
            *_cells(curve.points.get(each.name)),
        )
        for each in curve.checkpoints
    )
    goal = Markup(
        "<tr><th scope=row>filtered original</th><td>100{}% by definition</td><td>0</td><td>{} {}</td></tr>"
    ).format("\u202f", number(curve.goal["value"]), interval(dict(curve.goal)))
    return Markup(
        '<div class="vdu-scroll"><table class="vdu-table"><thead><tr><th>step</th><th>PUL, 95 % interval</th>'
        "<th>forget images</th><th>u-FID[{}] of {}, 95 % interval</th></tr></thead><tbody>{}{}</tbody></table></div>"
    ).format(curve.features, curve.compared, rows, goal)


def _cells(point: Point | None) -> tuple[str, str, str]:
    if point is None:
        return "not measured", "", ""
    u_fid = f"{number(point.u_fid['value'])} {interval(dict(point.u_fid))}"
    if point.pul is None:
        return "0\u202f% by definition", "", u_fid
    counts = f"{point.pul['n_original']:.0f} → {point.pul['n_unlearned']:.0f}"
    return f"{percent(point.gone)} {interval(dict(point.pul), 1)}", counts, u_fid


def _goal(curve: Curve, title: str, colour: int, x: _Scale) -> Markup:
    across = x(curve.goal["value"])
    return Markup(
        '<line class="vdu-goal vdu-c{}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"><title>filtered original of {}: u-FID {}</title></line>'
    ).format(colour, across, across, _TOP, _HEIGHT - _BOTTOM, title, number(curve.goal["value"]))


def _line(curve: Curve, title: str, colour: int, x: _Scale, y: _Scale) -> Markup:
    known = [(each.label, curve.points[each.name]) for each in curve.checkpoints if each.name in curve.points]
    line = " ".join(f"{x(point.u_fid['value']):.1f},{y(point.gone):.1f}" for _, point in known)
    dots = Markup("").join(
        Markup(
            '<circle class="vdu-dot vdu-c{}" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}, step {}: PUL {}, u-FID {}</title></circle>'
        ).format(
            colour, x(point.u_fid["value"]), y(point.gone), title, label, percent(point.gone), number(point.u_fid["value"])
        )
        for label, point in known
    )  # fmt: skip
    return Markup('<polyline class="vdu-line vdu-c{}" points="{}"/>{}').format(colour, line, dots)


def _highlight(point: Point, name: str, label: str, colour: int, x: _Scale, y: _Scale) -> Markup:
    across, up = x(point.u_fid["value"]), y(point.gone)
    bar = Markup('<line class="vdu-bar vdu-c{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
    bars = bar.format(colour, x(point.u_fid["low"]), x(point.u_fid["high"]), up, up)
    if point.pul:
        bars += bar.format(colour, across, across, y(point.pul["low"]), y(point.pul["high"]))
    end = across > _WIDTH * 0.6
    return Markup(
        '{}<circle class="vdu-now vdu-c{}" data-checkpoint="{}" cx="{:.1f}" cy="{:.1f}" r="9"/>'
        '<text class="vdu-label" x="{:.1f}" y="{:.1f}" text-anchor="{}">step {}</text>'
    ).format(
        bars, colour, name, across, up, across + (-14 if end else 14), up + 22, "end" if end else "start", label
    )  # fmt: skip


def _axes(x: _Scale, y: _Scale, highest: float, lowest: float) -> Markup:
    bottom, parts = _HEIGHT - _BOTTOM, []
    down = Markup('<line class="vdu-grid" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>')
    across = Markup('<line class="vdu-grid" x1="{1}" x2="{2}" y1="{0:.1f}" y2="{0:.1f}"/>')
    tick = Markup('<text class="vdu-tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    for quarter in range(5):
        distance, share = highest * quarter / 4, lowest + (100 - lowest) * quarter / 4
        parts += [down.format(x(distance), _TOP, bottom), across.format(y(share), _LEFT, _WIDTH - _RIGHT)]
        parts += [
            tick.format(x(distance), bottom + 18, "middle", number(distance)),
            tick.format(_LEFT - 8, y(share) + 4, "end", f"{share:.0f} %".replace("-", "−")),
        ]
    name = Markup('<text class="vdu-axis" transform="translate({} {}) rotate({})" text-anchor="middle">{}</text>')
    parts += [
        name.format(
            (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, 0, "u-FID, distance from the reference (left is better)"
        ),
        name.format(14, (_TOP + bottom) / 2, -90, "PUL, share forgotten (up is better)"),
    ]
    return Markup("").join(parts)


def _round_up(value: float) -> float:
    """The next number whose quarters are round."""
    unit = 10 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(unit * m for m in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if unit * m >= value * (1 - 1e-9))
