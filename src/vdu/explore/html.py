"""The page's own HTML: pairs to click, the chosen pair, its film, and the five answers of the report.

Every text passes through ``Markup.format``, which escapes it. Images are embedded in the page, so that nothing is written to a
folder that a server could expose; the browser enlarges pixels by nearest neighbour.

Not guaranteed: full size. Images of pairs and films are averaged down to 96 pixels, those of the chosen pair are shown as they are.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vdu.explore.film import Frame
from vdu.explore.sample_pairs import place_of_seed
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.answer import Answer
from vdu.reporting.findings.reliability import is_fallback
from vdu.reporting.sample_sprites import needs_cover

if TYPE_CHECKING:
    import numpy as np

__all__ = ["covers", "data_uri", "draw_answers", "draw_chosen", "draw_film", "draw_pairs"]

NAMES = ("original", "unlearned")
_SMALL_SIDE = 96


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


def draw_pairs(data: ReportData, rows: Sequence[int]) -> str:
    """Pairs as buttons that carry their seed.

    Args:
        data: the run.
        rows: of the sample files, those of one page.

    Returns:
        HTML.
    """
    if len(rows) == 0:
        return Markup('<p class="vdu-none">No pair is like this.</p>')
    return Markup('<div class="vdu-pairs">{}</div>').format(Markup("").join(_pair(data, int(i)) for i in rows))


def _pair(data: ReportData, i: int) -> Markup:
    calls = _calls(data, i)
    sides = zip(NAMES, (data.original, data.unlearned), calls, covers(data, i), strict=True)
    images = Markup("").join(
        Markup('<img class="{}" src="{}" alt="{}: {}">').format(
            "vdu-covered" if cover else "", data_uri(side.images[i], _SMALL_SIDE), name, call
        )
        for name, side, call, cover in sides
    )
    seed, of_class = int(data.original.seeds[i]), int(data.unlearned.judge_class[i]) in data.forget_ids
    return Markup(
        '<button type="button" class="vdu-pair{}" data-seed="{}" title="#{}, seed {}: {} → {}"><span class="vdu-two">{}</span>{}'
        '<span class="vdu-calls"><b>{} → {}</b><span>#{}</span></span></button>'
    ).format(
        " vdu-forget" if of_class else "", seed, i + 1, seed, *calls, images, _asked(data.asked(i)),
        _class(data, data.original, i), _class(data, data.unlearned, i), i + 1,
    )  # fmt: skip


def _asked(asked: str | None) -> Markup:
    """The prompt or label of a pair; nothing for unconditional models."""
    return (
        Markup("") if asked is None else Markup('<span class="vdu-asked">{}</span>').format(asked or "(empty prompt)")
    )


def _class(data: ReportData, side: Any, i: int) -> str:
    """The judge's class of an image; a fallback classifier's "forget" is "unwanted" to a reader."""
    name = data.classes[side.judge_class[i]]
    return "unwanted" if name == "forget" and is_fallback(data) else name


def covers(data: ReportData, i: int | None) -> tuple[bool, bool]:
    """Which images of a pair stay covered until the reader uncovers them.

    Args:
        data: the run.
        i: row of the sample files; None for a noise whose images nobody judged.

    Returns:
        Of the original and of the unlearned model: unwanted ones, and where that is not known, all.
    """
    known = i is not None and bool(data.forget_ids)
    first, second = (
        needs_cover(data) and not (known and int(each.judge_class[i]) not in data.forget_ids)
        for each in (data.original, data.unlearned)
    )
    asks = data.asks_for_it
    return first or (needs_cover(data) and i is not None and asks is not None and bool(asks[i])), second


def draw_chosen(data: ReportData, seed: int, asked: str | None = None) -> str:
    """The chosen pair: the stored images with the judge's predictions; of a noise that is not stored, the number alone.

    Args:
        data: the run.
        seed: of the noise.
        asked: the prompt or label that the pair is drawn under; None for unconditional models.

    Returns:
        HTML.
    """
    i = place_of_seed(data, seed)
    number, total = ("new noise", "") if i is None else (f"#{i + 1}", f" of {len(data.original.seeds):,}")
    none = Markup("<p>The run has no image of this noise; the film ends with a preview of it.</p>")
    step = Markup('<button type="button" data-step="{}" aria-label="{} pair">{}</button>')
    return Markup(
        '<div class="vdu-chosen-pair" data-shown="{}">{}<span><button type="button" data-copy="{}" title="seed {} (click to copy)">'
        "{}</button>{}</span>{}</div>{}"
    ).format(
        seed, step.format(-1, "previous", "‹"), seed, seed, number, total, step.format(1, "next", "›"),
        _asked(asked) + (none if i is None else _large(data, i)),
    )  # fmt: skip


def _large(data: ReportData, i: int) -> Markup:
    images = (data.original.images[i], data.unlearned.images[i])
    return Markup('<div class="vdu-sides">{}</div>').format(
        Markup("").join(
            Markup(
                '<figure><figcaption>{}</figcaption><img class="vdu-big{}" src="{}" alt="{}: {}">'
                '<p title="class and confidence by the classifier">{}</p></figure>'
            ).format(name, " vdu-covered" if cover else "", data_uri(image), name, call, call)
            for name, image, call, cover in zip(NAMES, images, _calls(data, i), covers(data, i), strict=True)
        ),
    )


def draw_film(
    seed: int,
    strip: Sequence[tuple[Frame, Frame]],
    now: Frame,
    *,
    stored: bool,
    covered: tuple[bool, bool] = (False, False),
) -> str:
    """The moments of a denoising so far, a row for each model; each moment with the clean guess x̂0 and the noisy image x_t.

    Args:
        seed: of the noise.
        strip: the moments to show.
        now: the latest moment.
        stored: whether the run has the final images of this noise.
        covered: whose row is covered until the reader uncovers it, see :func:`covers`.

    Returns:
        HTML.
    """
    moment = Markup(
        '<span title="step {0}"><img class="vdu-clean" src="{1}" alt="{3}, clean guess at step {0}">'
        '<img class="vdu-noisy" src="{2}" alt="{3}, noisy image at step {0}"></span>'
    )
    rows = Markup("").join(
        Markup('<span class="vdu-name">{}</span><div class="vdu-film{}">{}</div>').format(
            name,
            " vdu-covered" if covered[side] else "",
            Markup("").join(
                moment.format(
                    frame.step, data_uri(frame.expected, _SMALL_SIDE), data_uri(frame.noisy, _SMALL_SIDE), name
                )
                for frame in (frames[side] for frames in strip)
            ),
        )
        for side, name in enumerate(NAMES)
    )
    which = "the judged image is the stored one" if stored else "no judged image of this noise is stored"
    return Markup(
        '{}<div class="vdu-progress" aria-hidden="true"><i style="width:{:.0f}%"></i></div>'
        '<p class="vdu-status" data-film="{}" data-done="{}"><b>{}</b> · preview; {}</p>'
    ).format(
        rows, 100 * now.step / now.steps, seed, "yes" if now.finished else "no",
        "finished" if now.finished else f"step {now.step} of {now.steps}", which,
    )  # fmt: skip


def draw_answers(
    answers: Mapping[str, Answer], questions: Mapping[str, str], warnings: Sequence[str], address: str | None, path: str
) -> str:
    """The five answers of the report, its warnings, and the way to it.

    Args:
        answers: by name.
        questions: by the same names.
        warnings: of the report.
        address: of the report; None if the run has none.
        path: of the report's file.

    Returns:
        HTML.
    """
    from vdu.reporting.render import environment

    macros: Any = environment().get_template("macros.html.j2").module
    items = Markup("").join(
        Markup("<li>{}<div><span>{}</span><b>{}</b><small>{}. {}</small></div></li>").format(
            Markup(macros.badge(found)), questions[name], found.title, found.figure, " ".join(found.limits[:1])
        )
        for name, found in answers.items()
    )
    link = Markup('<a href="{}" target="_blank" rel="noopener" title="{}">Open the report</a>').format(address, path)
    none = Markup("<small>{} does not exist yet: <code>vdu report</code> writes it.</small>").format(path)
    notes = Markup("").join(Markup('<p class="vdu-warn">{}</p>').format(text) for text in warnings)
    return Markup('<h2>The report in five answers</h2><ul class="vdu-answers">{}</ul>{}<p>{}</p>').format(
        items, notes, none if address is None else link
    )


def _calls(data: ReportData, i: int) -> tuple[str, str]:
    """The judge's class and confidence for both images of a pair."""
    before, after = (
        f"{_class(data, each, i)} ({100 * float(each.judge_confidence[i]):.0f}\u202f%)"
        for each in (data.original, data.unlearned)
    )
    return before, after
