"""The page's own HTML: images as data URIs, the two models side by side, pairs to click, the front as an SVG.

Every text passes through ``Markup.format``, which escapes it. Images are embedded in the page, so that nothing is written to a
folder that a server could expose; the browser enlarges pixels by nearest neighbour.

Not guaranteed: full size. Images of pairs are averaged down to 96 pixels, those of the view are shown as they are.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from vdu.explore.film import Frame
from vdu.explore.tradeoff import Front, Point
from vdu.report.collect import ReportData
from vdu.report.formatting import interval, number, percent

if TYPE_CHECKING:
    import numpy as np

__all__ = ["data_uri", "draw_front", "draw_pairs", "draw_sides", "front_table"]

_PAIR_SIDE = 96
_COLOURS = 6
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 430, 64, 52, 26, 24


def data_uri(image: "np.ndarray", largest: int | None = None) -> str:
    """An image as a PNG inside an address.

    Args:
        image: uint8 [H, W, C], C = 1 or 3.
        largest: average it down to so many pixels on the longer side, if it has more.

    Returns:
        ``data:image/png;base64,…``
    """
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if largest and max(picture.size) > largest:
        ratio = largest / max(picture.size)
        picture = picture.resize([max(1, round(side * ratio)) for side in picture.size], Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def draw_sides(
    names: tuple[str, str],
    frames: tuple[Frame, Frame],
    strip: Sequence[tuple[Frame, Frame]],
    *,
    seed: int,
    noisy: bool,
    calls: tuple[str, str],
) -> str:
    """Two models at one moment, and below them the moments so far.

    Args:
        names: of the models.
        frames: the moment.
        strip: earlier moments, for the film strip.
        seed: of the noise.
        noisy: show x_t instead of the predicted clean image.
        calls: the judge's prediction for the stored image of this seed, or "".

    Returns:
        HTML.
    """
    now = frames[0]
    done = "finished" if now.finished else f"step {now.step} of {now.steps}"
    sides = Markup("").join(
        Markup(
            '<figure class="vdu-side"><figcaption>{}</figcaption><img class="vdu-big" src="{}" alt="{}, {}">'
            "<p>{}</p></figure>"
        ).format(name, data_uri(_shown(frame, noisy)), name, done, call if now.finished else "")
        for name, frame, call in zip(names, frames, calls, strict=True)
    )
    rows = Markup("").join(
        Markup('<div class="vdu-film">{}</div>').format(
            Markup("").join(
                Markup('<img src="{}" alt="{}, step {}">').format(
                    data_uri(_shown(moment[side], noisy), _PAIR_SIDE), name, moment[side].step
                )
                for moment in strip
            )
        )
        for side, name in enumerate(names)
    )
    status = Markup(
        '<p class="vdu-status" data-done="{}">Noise seed {} · <b>{}</b></p>'
        '<div class="vdu-bar-all" aria-hidden="true"><i style="width:{:.0f}%"></i></div>'
    ).format("yes" if now.finished else "no", seed, done, 100 * now.step / now.steps)
    return Markup('{}<div class="vdu-sides">{}</div><div class="vdu-films">{}</div>').format(status, sides, rows)


def draw_pairs(data: ReportData, rows: Sequence[int]) -> str:
    """Pairs as buttons that carry their seed.

    Args:
        data: the run.
        rows: of the sample files, those of one page.

    Returns:
        HTML.
    """
    if len(rows) == 0:
        return Markup('<p class="vdu-none">No pair is like this. Loosen a filter.</p>')
    return Markup('<div class="vdu-pairs">{}</div>').format(Markup("").join(_pair(data, int(i)) for i in rows))


def _pair(data: ReportData, i: int) -> Markup:
    before, after = data.original, data.unlearned
    told = [
        f"{data.classes[each.judge_class[i]]}, {100 * float(each.judge_confidence[i]):.0f} %"
        for each in (before, after)
    ]
    changed = before.judge_class[i] != after.judge_class[i]
    return Markup(
        '<button type="button" class="vdu-pair{}" data-seed="{}" title="Watch seed {}"><span class="vdu-two">'
        '<img src="{}" alt="before: {}"><img src="{}" alt="after: {}"></span>'
        '<span class="vdu-calls"><span>{}</span><span aria-hidden="true">→</span><span>{}</span></span>'
        '<span class="vdu-seed">seed {}</span></button>'
    ).format(
        " vdu-changed" if changed else "",
        int(before.seeds[i]),
        int(before.seeds[i]),
        data_uri(before.images[i], _PAIR_SIDE),
        told[0],
        data_uri(after.images[i], _PAIR_SIDE),
        told[1],
        told[0],
        told[1],
        int(before.seeds[i]),
    )


def draw_front(fronts: Mapping[str, Front], chosen_run: str, chosen_stop: str) -> str:
    """PUL against u-FID: a line per run, a dot per stop, the chosen one with its interval.

    Args:
        fronts: by title of the run.
        chosen_run: title of the run whose stop is chosen.
        chosen_stop: name of the stop.

    Returns:
        HTML with one SVG.
    """
    points = [point for front in fronts.values() for point in front.points.values()]
    if not points:
        return Markup('<p class="vdu-none">Nothing is measured yet.</p>')
    floors = [front.floor["value"] for front in fronts.values() if front.floor]
    highest = _round_up(max([point.u_fid["value"] for point in points] + floors) * 1.08)
    chosen = fronts[chosen_run].points.get(chosen_stop)
    lowest = min(0.0, math.floor(min(point.pul["value"] for point in points) / 10) * 10.0)

    def x(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(value, highest) / highest

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * (max(value, lowest) - lowest) / (100 - lowest)

    parts = [_axes(x, y, highest, lowest)]
    for place, (title, front) in enumerate(fronts.items()):
        parts.append(_path(front, title, place % _COLOURS, x, y))
        if front.floor:
            parts.append(
                Markup(
                    '<line class="vdu-floor vdu-c{}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"><title>filtered original of {}: u-FID {}'
                    "</title></line>"
                ).format(
                    place % _COLOURS, x(front.floor["value"]), x(front.floor["value"]), _TOP, _HEIGHT - _BOTTOM, title,
                    number(front.floor["value"]),
                )
            )  # fmt: skip
    if chosen:
        parts.append(_highlight(chosen, list(fronts).index(chosen_run) % _COLOURS, x, y))
    legend = Markup("").join(
        Markup('<li><i class="vdu-c{}"></i>{}</li>').format(place % _COLOURS, title)
        for place, title in enumerate(fronts)
    )
    return Markup(
        '<svg class="vdu-front" viewBox="0 0 {} {}" role="img" aria-label="PUL against u-FID, one dot per checkpoint">{}</svg>'
        '<ul class="vdu-legend">{}<li><i class="vdu-dash"></i>filtered original</li></ul>'
    ).format(_WIDTH, _HEIGHT, Markup("").join(parts), legend)


def front_table(front: Front, chosen_stop: str) -> str:
    """The numbers behind the dots of one run.

    Args:
        front: of the run.
        chosen_stop: name of the highlighted stop.

    Returns:
        HTML.
    """
    rows = []
    for stop in front.stops:
        point = front.points.get(stop.name)
        cells = ("not measured", "", "") if point is None else _cells(point)
        chosen = Markup(' class="vdu-chosen" aria-current="true"') if stop.name == chosen_stop else ""
        rows.append(
            Markup("<tr{}><th scope=row>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>").format(
                chosen, stop.label, *cells
            )
        )
    if front.floor:
        floor = f"{number(front.floor['value'])} {interval(front.floor)}"
        rows.append(
            Markup(
                "<tr><th scope=row>filtered original</th><td>100 by definition</td><td></td><td>{}</td></tr>"
            ).format(floor)
        )
    return Markup(
        '<div class="vdu-scroll"><table class="vdu-table"><thead><tr><th>stopped at</th><th>PUL, 95 % interval</th>'
        "<th>forget images</th><th>u-FID[{}], 95 % interval</th></tr></thead><tbody>{}</tbody></table></div>"
    ).format(front.protocol.get("feature_network", "judge"), Markup("").join(rows))


def _cells(point: Point) -> tuple[str, str, str]:
    u_fid = f"{number(point.u_fid['value'])} {interval(point.u_fid)}"
    counts = f"{point.pul['n_original']:.0f} → {point.pul['n_unlearned']:.0f}"
    if point.stop.name == "original":
        return "0 by definition", counts, u_fid
    return f"{percent(point.pul['value'])} {interval(point.pul, 0)}", counts, u_fid


def _path(front: Front, title: str, colour: int, x, y) -> Markup:
    points = [front.points[stop.name] for stop in front.stops if stop.name in front.points]
    line = " ".join(f"{x(point.u_fid['value']):.1f},{y(point.pul['value']):.1f}" for point in points)
    dots = Markup("").join(
        Markup('<circle class="vdu-dot vdu-c{}" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}, {}: PUL {}, u-FID {}</title></circle>').format(
            colour, x(point.u_fid["value"]), y(point.pul["value"]), title, point.stop.label,
            percent(point.pul["value"]), number(point.u_fid["value"]),
        )
        for point in points
    )  # fmt: skip
    return Markup('<polyline class="vdu-line vdu-c{}" points="{}"/>{}').format(colour, line, dots)


def _highlight(point: Point, colour: int, x, y) -> Markup:
    across, up = x(point.u_fid["value"]), y(point.pul["value"])
    end = across > _WIDTH * 0.6
    label = point.stop.label
    bars = Markup(
        '<line class="vdu-bar vdu-c{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
        '<line class="vdu-bar vdu-c{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
    ).format(
        colour, x(point.u_fid["low"]), x(point.u_fid["high"]), up, up,
        colour, across, across, y(point.pul["low"]), y(point.pul["high"]),
    )  # fmt: skip
    return Markup(
        '{}<circle class="vdu-now vdu-c{}" data-stop="{}" cx="{:.1f}" cy="{:.1f}" r="9"/>'
        '<text class="vdu-label" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    ).format(
        bars,
        colour,
        point.stop.name,
        across,
        up,
        across + (-14 if end else 14),
        up + 22,
        "end" if end else "start",
        label,
    )


def _axes(x, y, highest: float, lowest: float) -> Markup:
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


def _shown(frame: Frame, noisy: bool) -> "np.ndarray":
    return frame.noisy if noisy else frame.expected
