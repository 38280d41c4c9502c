"""The page: three tabs over one or several opened runs. Gradio carries the events; what is shown is in ``drawing``.

Seeds are passed as text, since a browser's numbers lose digits beyond 2⁵³. The functions that the page calls are methods of
:class:`Page`, which holds the runs but no state of a visitor.

Not guaranteed: speed. A model is evaluated at the micro-batch size of its protocol, so that the bits are the same.
"""

import math
import random
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vdu.core.errors import InputError
from vdu.explore.film import Frame, parse_seed, side_by_side
from vdu.explore.html import draw_front, draw_pairs, draw_sides, front_table
from vdu.explore.open_run import OpenRun, Stop
from vdu.explore.sample_pairs import PairFilter, first_seed, place_of_seed, select_pairs
from vdu.explore.tradeoff import Front, cached_front, measure_front
from vdu.report.formatting import percent

__all__ = ["CSS", "Page", "build"]

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
PAIRS_PER_PAGE = 48
MOST_FRAMES, FILM_FRAMES = 60, 10
ANY = -1
CHANGES = [("all pairs", "any"), ("class changed", "changed"), ("class the same", "same")]
VIEWS = [("image it expects (x̂₀)", "expected"), ("noisy image (x_t)", "noisy")]
CLICK = """element.addEventListener('click', (event) => {
  const pair = event.target.closest('[data-seed]');
  if (pair) trigger('click', {seed: pair.dataset.seed});
});"""


class Page:
    """The functions behind the page's controls.

    Args:
        runs: one or more.
        n_images: images of each model on the front.
    """

    def __init__(self, runs: list[OpenRun], n_images: int) -> None:
        self.runs, self.n_images = runs, n_images
        short = [run.title for run in runs]
        self.titles = [
            title if short.count(title) == 1 else f"{title} in {run.folder.resolve().parent}"
            for title, run in zip(short, runs, strict=True)
        ]

    def denoise(self, place: int, text: str, stop: str, view: str) -> Iterator[str]:
        """Stream the two models' images for a seed.

        Args:
            place: which run.
            text: the seed, as typed.
            stop: name of the stop of the model on the right.
            view: "expected" or "noisy".

        Yields:
            HTML of the moment.
        """
        run, seed = self.runs[place], parse_seed(text)
        chosen = self._stop(run, stop)
        names = ("Original", "Unlearned" if stop == "final" else f"Unlearned, {chosen.label}")
        calls = self._calls(run, seed, stop)
        strip: list[tuple[Frame, Frame]] = []
        with closing(side_by_side(run.original, run.denoiser_at(chosen), seed, run.sampler)) as moments:
            for frames in moments:
                now = frames[0]
                if now.finished or _shown(now.step, now.steps, FILM_FRAMES):
                    strip.append(frames)
                if now.finished or _shown(now.step, now.steps, MOST_FRAMES):
                    yield draw_sides(names, frames, strip, seed=seed, noisy=view == "noisy", calls=calls)

    def pairs(
        self, place: int, before: int, after: int, change: Any, least: float, most: float, page: int = 1
    ) -> tuple[str, str, int]:
        """The stored pairs that pass a filter.

        Args:
            place: which run.
            before: class in the original's image, or ANY.
            after: class in the unlearned model's, or ANY.
            change: "any", "changed" or "same".
            least: lowest confidence, in percent.
            most: highest confidence, in percent.
            page: page number, from 1.

        Returns:
            The count in words, HTML of one page, and the number of pages.
        """
        data = self.runs[place].data
        wanted = PairFilter(
            None if before == ANY else before, None if after == ANY else after, change, least / 100, most / 100
        )
        rows = select_pairs(data, wanted)
        pages = max(1, math.ceil(len(rows) / PAIRS_PER_PAGE))
        start = (min(page, pages) - 1) * PAIRS_PER_PAGE
        shown = rows[start : start + PAIRS_PER_PAGE]
        which = f", {start + 1} to {start + len(shown)} shown" if pages > 1 else ""
        count = Markup('<p class="vdu-count"><b>{}</b> of {} pairs{}</p>').format(
            len(rows), len(data.original.images), which
        )
        return count, draw_pairs(data, shown.tolist()), pages

    def seed_of(self, place: int) -> str:
        """An initial seed."""
        return str(first_seed(self.runs[place].data))

    def another_seed(self, place: int) -> str:
        """One of the stored seeds, at random."""
        return str(int(random.choice(self.runs[place].data.original.seeds)))

    def fronts(self) -> dict[str, Front]:
        """The measured part of every run's trade-off curve."""
        return {title: cached_front(run, self.n_images) for title, run in zip(self.titles, self.runs, strict=True)}

    def front(self, place: int, stop_place: float, fronts: dict[str, Front] | None = None) -> tuple[str, str, str]:
        """The trade-off curve with one stop highlighted.

        Args:
            place: which run.
            stop_place: which of its stops, from 0.
            fronts: of every run; None reads the caches.

        Returns:
            HTML of the sentence, the plot and the table.
        """
        fronts = fronts or self.fronts()
        title, run = self.titles[place], self.runs[place]
        chosen = run.stops[min(int(stop_place), len(run.stops) - 1)]
        front = fronts[title]
        return self._sentence(front, chosen), draw_front(fronts, title, chosen.name), front_table(front, chosen.name)

    def measure(self, place: int, stop_place: float) -> Iterator[tuple[str, str, str]]:
        """Measure the missing points of every run's trade-off curve, and show each as it is measured.

        Args:
            place: the run whose stop is highlighted.
            stop_place: the stop.

        Yields:
            As :meth:`front`.
        """
        fronts = self.fronts()
        yield self.front(place, stop_place, fronts)
        for title, run in zip(self.titles, self.runs, strict=True):
            for known in measure_front(run, self.n_images):
                fronts[title] = known
                yield self.front(place, stop_place, fronts)

    def advice(self, place: int) -> str:
        """A note on the points of this run's trade-off curve, and on how to get more."""
        run = self.runs[place]
        n = sum(stop.folder is not None for stop in run.stops)
        if n:
            return Markup("")
        return Markup(
            '<p class="vdu-none">This run kept no checkpoint before its last step, so the front has its two ends only. For more, '
            "unlearn again with <code>--checkpointing-steps</code> (a checkpoint every so many steps; a run keeps its newest ones).</p>"
        )

    def comparison(self) -> str:
        """A warning if the runs' trade-off curves are not comparable."""
        first = cached_front(self.runs[0], self.n_images).protocol
        names = {
            "sampler": "samplers", "seed": "seeds", "judge": "judges", "reference": "references", "forget_classes": "forget classes",
            "original_sha256": "original models", "samples_sha256": "samples of the original",
        }  # fmt: skip
        others = [cached_front(run, self.n_images).protocol for run in self.runs[1:]]
        differ = [words for name, words in names.items() if any(each[name] != first[name] for each in others)]
        if not differ:
            return Markup("")
        return Markup('<p class="vdu-warn">These runs have different {}: their points are not comparable.</p>').format(
            ", ".join(differ)
        )

    def _sentence(self, front: Front, chosen: Stop) -> str:
        point = front.points.get(chosen.name)
        trouble = Markup('<p class="vdu-warn">{}</p>').format(front.trouble) if front.trouble else Markup("")
        if point is None:
            return trouble + Markup("<p>Stopped at <b>{}</b>: not measured yet.</p>").format(chosen.label)
        gone = "0 % by definition" if chosen.name == "original" else percent(point.pul["value"])
        return trouble + Markup(
            "<p>Stopped at <b>{}</b>: PUL <b>{}</b>, u-FID[judge] <b>{}</b> (filtered original {}).</p>"
        ).format(
            chosen.label,
            gone,
            f"{point.u_fid['value']:.1f}",
            f"{front.floor['value']:.1f}" if front.floor else "unknown",
        )

    def _calls(self, run: OpenRun, seed: int, stop: str) -> tuple[str, str]:
        i = place_of_seed(run.data, seed)
        if i is None:
            return "", ""
        told = [
            f"The judge calls it {run.data.classes[each.judge_class[i]]} ({100 * float(each.judge_confidence[i]):.0f} %)."
            for each in (run.data.original, run.data.unlearned)
        ]
        return told[0], told[1] if stop == "final" else ""

    def _stop(self, run: OpenRun, name: str) -> Stop:
        found = [stop for stop in run.stops if stop.name == name]
        if not found:
            raise InputError(
                f"stop: got {name!r}; this run has {', '.join(stop.name for stop in run.stops)}. Choose one."
            )
        return found[0]


def _shown(step: int, steps: int, most: int) -> bool:
    """Whether a step is among at most ``most`` evenly spread ones, including the first."""
    return (step - 1) % math.ceil(steps / most) == 0


def build(runs: list[OpenRun], n_images: int) -> Any:
    """The page as a Gradio application, not yet served.

    Args:
        runs: one or more.
        n_images: images of each model on the front.

    Returns:
        ``gradio.Blocks``.
    """
    import gradio as gr

    page = Page(runs, n_images)
    taught = _Teacher(gr)
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Blocks(title="vdu explore", analytics_enabled=False, fill_width=True) as demo:
        gr.HTML(_heading(runs), elem_classes="vdu-head")
        run = gr.Dropdown(
            choices=[(title, i) for i, title in enumerate(page.titles)], value=0, label="Run", visible=len(runs) > 1,
            elem_id="vdu-run",
        )  # fmt: skip
        with gr.Tabs(selected="denoise", elem_id="vdu-tabs") as tabs:
            with gr.Tab("Watch it denoise", id="denoise"):
                gr.HTML(_say("Two models, one noise", _DENOISE), elem_classes="vdu-say")
                with gr.Row(equal_height=True):
                    seed = gr.Textbox(page.seed_of(0), label="Noise seed", scale=3, elem_id="vdu-seed", max_lines=1)
                    stop = gr.Dropdown(
                        **_stop_choices(page, 0), label="Model on the right", scale=2, elem_id="vdu-stop"
                    )
                    view = gr.Dropdown(VIEWS, value="expected", label="Show", scale=3, elem_id="vdu-view")
                with gr.Row():
                    go = gr.Button("Denoise", variant="primary", elem_id="vdu-go")
                    dice = gr.Button("Another stored seed", elem_id="vdu-dice")
                    halt = gr.Button("Stop", elem_id="vdu-halt")
                screen = gr.HTML("", elem_id="vdu-screen")
            with gr.Tab("Stored samples", id="pairs"):
                gr.HTML(_say("Pairs from the same noise", _PAIRS), elem_classes="vdu-say")
                with gr.Row():
                    before = gr.Dropdown(**_class_choices(page, 0), label="Class before", elem_id="vdu-before")
                    after = gr.Dropdown(**_class_choices(page, 0), label="Class after", elem_id="vdu-after")
                    change = gr.Dropdown(CHANGES, value="any", label="Change", elem_id="vdu-change")
                with gr.Row():
                    least = gr.Slider(0, 100, 0, step=1, label="Judge's confidence, at least (%)", buttons=[])
                    most = gr.Slider(0, 100, 100, step=1, label="Judge's confidence, at most (%)", buttons=[])
                count, pairs, pages = page.pairs(0, ANY, ANY, "any", 0, 100, 1)
                with gr.Row(equal_height=True):
                    counter = gr.HTML(count, elem_id="vdu-count")
                    leaf = gr.Slider(1, max(pages, 2), 1, step=1, label="Page", visible=pages > 1, buttons=[])
                gallery = gr.HTML(pairs, js_on_load=CLICK, elem_id="vdu-gallery")
            with gr.Tab("Stopping step", id="front"):
                gr.HTML(_say("How far to go", _FRONT.format(n=n_images)), elem_classes="vdu-say")
                if warning := page.comparison():
                    gr.HTML(warning, elem_classes="vdu-say")
                advice = gr.HTML(page.advice(0), elem_id="vdu-advice", visible=bool(page.advice(0)))
                last = len(runs[0].stops) - 1
                sentence, plot, table = page.front(0, last)
                with gr.Row():
                    with gr.Column(scale=3, min_width=420):
                        drawn = gr.HTML(plot, elem_id="vdu-plot")
                    with gr.Column(scale=2, min_width=380):
                        where = gr.Slider(
                            0, last, last, step=1, label="Stop at (0 is the original)",
                            elem_id="vdu-where", buttons=[],
                        )  # fmt: skip
                        told = gr.HTML(sentence, elem_id="vdu-told")
                        measure = gr.Button(
                            "Measure what is missing", variant="primary", elem_id="vdu-measure",
                            visible=not all(front.complete for front in page.fronts().values()),
                        )  # fmt: skip
                numbers = gr.HTML(table, elem_id="vdu-numbers")

        watching = go.click(taught(page.denoise), [run, seed, stop, view], screen, concurrency_limit=2, **private)
        seed.submit(taught(page.denoise), [run, seed, stop, view], screen, concurrency_limit=2, **private)
        halt.click(None, cancels=[watching])
        dice.click(taught(page.another_seed), run, seed, **private)

        def filtered(*values: Any) -> tuple[Any, Any, Any]:
            count, html, pages = page.pairs(*values)
            return count, html, gr.Slider(maximum=max(pages, 2), visible=pages > 1)

        def refiltered(*values: Any) -> tuple[Any, Any, Any]:
            count, html, pages = page.pairs(*values)
            return count, html, gr.Slider(value=1, maximum=max(pages, 2), visible=pages > 1)

        filters, shown = [run, before, after, change, least, most], [counter, gallery, leaf]
        for each in (before, after, change):
            each.input(taught(refiltered), filters, shown, **private)
        for each in (least, most):
            each.release(taught(refiltered), filters, shown, **private)
        leaf.release(taught(filtered), [*filters, leaf], shown, **private)

        def picked(event: gr.EventData) -> tuple[Any, Any]:
            return str(parse_seed(str(event.seed))), gr.Tabs(selected="denoise")

        gallery.click(taught(picked), None, [seed, tabs], **private)

        panel = [told, drawn, numbers]
        where.input(taught(page.front), [run, where], panel, trigger_mode="always_last", **private)
        measure.click(taught(page.measure), [run, where], panel, concurrency_limit=1, **private).success(
            lambda: gr.Button(visible=False), None, measure, **private
        )

        def changed(place: int) -> list[Any]:
            last, advice = len(page.runs[place].stops) - 1, page.advice(place)
            classes = _class_choices(page, place)
            return [
                page.seed_of(place), gr.Dropdown(**_stop_choices(page, place)), "",
                gr.Dropdown(**classes), gr.Dropdown(**classes), *refiltered(place, ANY, ANY, "any", 0, 100), "any", 0, 100,
                gr.HTML(advice, visible=bool(advice)), gr.Slider(maximum=last, value=last), *page.front(place, last),
            ]  # fmt: skip

        touched = [seed, stop, screen, before, after, *shown, change, least, most, advice, where, *panel]
        run.input(taught(changed), run, touched, **private)
    return demo


class _Teacher:
    """Wraps the page's functions so that input errors are shown on the page.

    Args:
        gr: the Gradio module.
    """

    def __init__(self, gr: Any) -> None:
        self.gr = gr

    def __call__(self, function: Any) -> Any:
        """The same function, whose InputError becomes a message on the page."""
        import functools
        import inspect

        gr = self.gr
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def streaming(*values: Any) -> Iterator[Any]:
                try:
                    yield from function(*values)
                except InputError as error:
                    raise gr.Error(str(Markup.escape(str(error))), duration=None, print_exception=False) from error

            return streaming

        @functools.wraps(function)
        def plain(*values: Any) -> Any:
            try:
                return function(*values)
            except InputError as error:
                raise gr.Error(str(Markup.escape(str(error))), duration=None, print_exception=False) from error

        return plain


_DENOISE = (
    "Both models start from the same random noise and remove it step by step, with the sampler of the evaluation. The last image is, "
    "bit for bit, the one that was judged. Early on the models still agree; watch where they part."
)
_PAIRS = (
    "Each pair: what the original made of a noise, and what the unlearned model makes of the same. A coloured edge marks a changed "
    "class. The judge's confidence of a pair is the lower of its two. Click a pair to put its seed into the first tab."
)
_FRONT = (
    "Every dot is the model as it was at a checkpoint: up is more forgotten, left is closer to the reference. The dashed line is the "
    "original's samples with the unwanted ones filtered out: perfect forgetting without damage. Distances are on the judge's features, "
    "of {n} images per model, so compare dots with each other only, not with the report's numbers."
)


def _say(title: str, text: str) -> str:
    return Markup("<h2>{}</h2><p>{}</p>").format(title, text)


def _heading(runs: list[OpenRun]) -> str:
    def distinct(values: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(values))

    forgot = distinct(", ".join(run.forget_names) or run.data.metrics["forget"]["description"] for run in runs)
    judges = distinct(run.data.metrics["judge"]["name"] for run in runs)
    samplers = distinct(f"{run.sampler.scheduler}, {run.sampler.steps} steps" for run in runs)
    warnings = Markup("").join(
        Markup('<p class="vdu-warn">{}{}</p>').format(f"{run.title}: " if len(runs) > 1 else "", text)
        for run in runs
        for text in run.data.warnings
    )
    return Markup(
        "<h1>Look at the unlearned model</h1><p>To be forgotten: <b>{}</b>. Judge: {}. Sampler: {}. "
        "Unlearning is approximate: what you find here is evidence, not proof.</p>{}"
    ).format(forgot, judges, samplers, warnings)


def _stop_choices(page: Page, place: int) -> dict[str, Any]:
    stops = page.runs[place].stops[1:]
    return {"choices": [(stop.label, stop.name) for stop in reversed(stops)], "value": "final"}


def _class_choices(page: Page, place: int) -> dict[str, Any]:
    names = page.runs[place].data.classes
    return {"choices": [("any", ANY), *((name, i) for i, name in enumerate(names))], "value": ANY}
