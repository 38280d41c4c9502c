"""The page: the stored pairs with the film of a chosen one, the report's answers, and the trade-off along the checkpoints.

Gradio carries the events; what is shown is in ``html`` and ``curve_html``. Seeds are passed as text, since a browser's numbers lose
digits beyond 2⁵³. The functions that the page calls are methods of :class:`Page`, which holds the runs and what is known of their
checkpoints, but no state of a visitor.
"""

import functools
import inspect
import math
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vdu.core.errors import InputError
from vdu.explore.curve_html import curve_table, draw_curves
from vdu.explore.film import Frame, side_by_side
from vdu.explore.html import covers, draw_answers, draw_chosen, draw_film, draw_pairs
from vdu.explore.open_run import OpenRun
from vdu.explore.sample_pairs import find_seed, forget_name, group_names, place_of_seed, select_pairs
from vdu.explore.tradeoff import has_curve, known_curve, measure_checkpoints, seconds_per_checkpoint
from vdu.reporting.evidence_json import QUESTIONS
from vdu.reporting.formatting import duration
from vdu.reporting.render import answers
from vdu.reporting.run_comparison import differences, read_runs
from vdu.reporting.sample_sprites import needs_cover

__all__ = ["CSS", "Page", "build", "report_file"]

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
PAIRS_PER_PAGE = 60
MOST_UPDATES, FILM_FRAMES = 60, 10
ANY = -1
TOAST_SECONDS = 8
VIEWS = [("clean guess", "clean"), ("noisy image", "noisy")]


def report_file(run: OpenRun) -> Path:
    """Where ``vdu report`` writes the run's report."""
    return run.folder / "report.html"


class Page:
    """The functions behind the page's controls.

    Args:
        runs: one or more.
    """

    def __init__(self, runs: list[OpenRun]) -> None:
        self.runs = runs
        short = [run.title for run in runs]
        self.titles = [
            title if short.count(title) == 1 else f"{title} in {run.folder.resolve().parent}"
            for title, run in zip(short, runs, strict=True)
        ]
        self.curves = {title: known_curve(run) for title, run in zip(self.titles, runs, strict=True) if has_curve(run)}

    def heading(self, place: int) -> str:
        """The run's title, what was forgotten, how to use the page, and the switch that uncovers unwanted images."""
        data = self.runs[place].data
        uncover = Markup(
            '<p><label><input type="checkbox" id="vdu-uncover" autocomplete="off"> Show the unwanted images</label></p>'
        )
        return Markup(
            "<h1>{}</h1><p>Approximate, not certified. To be forgotten: <b>{}</b>. Under a picture: the class and, in brackets, how sure "
            "the classifier is, right or wrong. Each pair starts from the same noise{}: left the original, right the unlearned "
            "model. Click a pair to see its film<span>; the keys ← and → step through the pairs</span>.</p>{}"
        ).format(
            self.titles[place],
            forget_name(data),
            " and has the same prompt" if data.concept else "",
            uncover if needs_cover(data) else "",
        )

    def answers(self, place: int) -> str:
        """The five answers of the report, its warnings, and the link to it."""
        run = self.runs[place]
        path = report_file(run).resolve()
        address = f"report/{place}" if path.is_file() else None
        return draw_answers(answers(run.data), QUESTIONS, run.data.warnings, address, str(path))

    def pairs(
        self, place: int, group: str, before: int, after: int, most: float, page: int = 1, asked: int = ANY
    ) -> tuple[str, str, int]:
        """The stored pairs that pass a filter.

        Args:
            place: which run.
            group: a key of :func:`vdu.explore.sample_pairs.group_names`.
            before: class in the original's image, or ANY.
            after: class in the unlearned model's, or ANY.
            most: highest confidence, in percent.
            page: page number, from 1.
            asked: number of the prompt or label, or ANY.

        Returns:
            The count in words, HTML of one page, and the number of pages.
        """
        data = self.runs[place].data
        first, second, what = (None if each == ANY else each for each in (before, after, asked))
        rows = select_pairs(data, group, first, second, most / 100, what)
        pages = max(1, math.ceil(len(rows) / PAIRS_PER_PAGE))
        start = (min(page, pages) - 1) * PAIRS_PER_PAGE
        shown = rows[start : start + PAIRS_PER_PAGE]
        which = f"{start + 1} to {start + len(shown)} of {len(rows):,}" if pages > 1 else f"{len(rows):,}"
        outlined = (
            Markup("; an outline marks those that are <b>{}</b> now").format(forget_name(data))
            if data.forget_ids
            else ""
        )
        count = Markup("<p>{} pair{}{}</p>").format(which, "" if len(rows) == 1 else "s", outlined)
        return count, draw_pairs(data, shown.tolist()), pages

    def first_seed(self, place: int) -> str:
        """The seed of the pair to begin with: the first shown whose second image is not covered, else the first shown."""
        data = self.runs[place].data
        rows = next((rows for key in group_names(data) if len(rows := select_pairs(data, key))), [0])
        row = next((i for i in rows if not covers(data, int(i))[1]), rows[0])
        return str(int(data.original.seeds[row]))

    def choose(self, place: int, text: str, asked: int = ANY) -> tuple[str, str, str]:
        """The stored images of a pair, at once.

        Args:
            place: which run.
            text: a number such as #12, or a seed.
            asked: number of the prompt or label that a new noise is drawn under; ANY is the first.

        Returns:
            The seed, HTML of the pair, and an empty film.
        """
        data = self.runs[place].data
        seed = find_seed(data, text)
        return str(seed), draw_chosen(data, seed, self._asked(place, seed, asked)), ""

    def _asked(self, place: int, seed: int, asked: int) -> str | None:
        """The prompt or label of a stored pair, or of a new noise the chosen one."""
        data = self.runs[place].data
        row = place_of_seed(data, seed)
        if row is not None or data.words is None:
            return None if row is None else data.asked(row)
        return data.words["asked"][0 if asked == ANY else asked]

    def film(self, place: int, text: str, asked: int = ANY) -> Generator[str, None, None]:
        """Stream the denoising of a pair.

        Args:
            place: which run.
            text: the seed.
            asked: as for :meth:`choose`.

        Yields:
            HTML of the film so far.
        """
        run, seed = self.runs[place], int(text)
        row = place_of_seed(run.data, seed)
        about: dict[str, Any] = {"stored": row is not None, "covered": covers(run.data, row)}
        strip: list[tuple[Frame, Frame]] = []
        under = self._asked(place, seed, asked)
        with closing(side_by_side(run.original, run.unlearned, seed, run.sampler, under)) as moments:
            for frames in moments:
                now = frames[0]
                if now.finished or _among(now.step, now.steps, FILM_FRAMES):
                    strip.append(frames)
                if now.finished or _among(now.step, now.steps, MOST_UPDATES):
                    yield draw_film(seed, strip, now, **about)

    def curve(self, place: int, checkpoint: str) -> tuple[str, str]:
        """The trade-off with one checkpoint highlighted.

        Args:
            place: which run.
            checkpoint: name of the checkpoint.

        Returns:
            HTML of the chart and the table.
        """
        title = self.titles[place]
        if title not in self.curves:
            few = Markup(
                '<p class="vdu-none">Too few checkpoints for a chart: see <code>vdu unlearn --checkpoints-total-limit</code>.</p>'
            )
            return few, ""
        return draw_curves(self.curves, title, checkpoint), curve_table(self.curves[title], checkpoint)

    def measure(self, place: int, checkpoint: str) -> Iterator[tuple[str, str]]:
        """Measure the missing checkpoints of every run, and show each as it is measured.

        Args:
            place: the run whose checkpoint is highlighted.
            checkpoint: its name.

        Yields:
            As :meth:`curve`.
        """
        for title, run in zip(self.titles, self.runs, strict=True):
            if title in self.curves:
                for known in measure_checkpoints(run):
                    self.curves[title] = known
                    yield self.curve(place, checkpoint)

    def missing(self) -> str:
        """The measurement that is left to do, with its duration; "" if all is known."""
        left = {title: len(curve.missing) for title, curve in self.curves.items()}
        if not sum(left.values()):
            return ""
        each = [seconds_per_checkpoint(run) for run in self.runs]
        times = [left.get(title, 0) * seconds for title, seconds in zip(self.titles, each, strict=True) if seconds]
        about = f" (about {duration(round(sum(times)))})" if sum(times) else ""
        return f"Measure {sum(left.values())} checkpoint{'' if sum(left.values()) == 1 else 's'}{about}"

    def unlike(self) -> str:
        """A warning if the numbers of the runs on the chart cannot be compared."""
        folders = [run.folder for title, run in zip(self.titles, self.runs, strict=True) if title in self.curves]
        found = differences(read_runs(folders)) if len(folders) > 1 else []
        return Markup("").join(Markup('<p class="vdu-warn">Not comparable: {}</p>').format(text) for text in found)


def _among(step: int, steps: int, most: int) -> bool:
    """Whether a step is among at most ``most`` evenly spread ones, including the first."""
    return (step - 1) % math.ceil(steps / most) == 0


def build(runs: list[OpenRun]) -> Any:
    """The page as a Gradio application, not yet served.

    Args:
        runs: one or more.

    Returns:
        ``gradio.Blocks``.
    """
    import gradio as gr

    page = Page(runs)
    with gr.Blocks(title=f"{page.titles[0]} · vdu explore", analytics_enabled=False, fill_width=True) as demo:
        head = gr.HTML(page.heading(0), elem_id="vdu-head")
        run = gr.Dropdown(
            choices=[(title, i) for i, title in enumerate(page.titles)], value=0, label="Run", visible=len(runs) > 1
        )
        if page.curves:
            with gr.Tabs():
                with gr.Tab("Pictures"):
                    _pictures(demo, page, run)
                with gr.Tab("Checkpoints"):
                    _checkpoints(demo, page, run)
        else:
            _pictures(demo, page, run)
        run.input(_taught(page.heading), run, head, **_PRIVATE)
    return demo


Chosen = tuple[str, int]  # a seed, and the number of the prompt or label under which a new noise is drawn
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def _pictures(demo: Any, page: Page, run: Any) -> None:
    """The pairs, the film and the answers."""
    import gradio as gr

    chosen = gr.State(("", ANY))  # the seed, and the prompt or label under which a new noise is drawn
    with gr.Row(elem_id="vdu-viewer"):
        with gr.Column(scale=2, min_width=300):
            pair = gr.HTML(page.choose(0, page.first_seed(0))[1], elem_id="vdu-chosen")
        with gr.Column(scale=4, min_width=300):
            film = gr.HTML("", elem_id="vdu-strip")
            view = gr.Radio(VIEWS, value="clean", show_label=False, container=False, elem_id="vdu-view")
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            which = gr.Radio(**_group_choices(page, 0), show_label=False, container=False, elem_id="vdu-which")
            count, html, pages = page.pairs(0, which.value, ANY, ANY, 100)
            counter = gr.HTML(count, elem_id="vdu-count")
            gallery = gr.HTML(html, js_on_load=SCRIPT, elem_id="vdu-gallery")
            leaf = gr.Slider(1, max(pages, 2), 1, step=1, label="Page", visible=pages > 1, buttons=[])
            with gr.Accordion("Narrow down, or try another noise", open=False):
                with gr.Row():
                    before = gr.Dropdown(**_class_choices(page, 0), label="Class before", elem_id="vdu-before")
                    after = gr.Dropdown(**_class_choices(page, 0), label="Class after", elem_id="vdu-after")
                asked = gr.Dropdown(**_asked_choices(page, 0), label="Prompt or label", elem_id="vdu-prompt")
                most = gr.Slider(0, 100, 100, step=1, label="Classifier's confidence at most (%)", buttons=[])
                seed = gr.Textbox(
                    label="Pair or seed", placeholder="#12, or any whole number", max_lines=1, elem_id="vdu-seed"
                )
        with gr.Column(scale=2, min_width=280):
            told = gr.HTML(page.answers(0), elem_id="vdu-told")

    filters, shown = [asked, run, which, before, after, most], [counter, gallery, leaf]

    def filtered(asked: int, *values: Any) -> tuple[Any, Any, Any]:
        count, html, pages = page.pairs(*values, asked=asked)
        first: dict[str, Any] = (
            {} if len(values) >= len(filters) else {"value": 1}
        )  # another filter begins at its first page
        return count, html, gr.Slider(maximum=max(pages, 2), visible=pages > 1, **first)

    for event in (which.input, before.input, after.input, asked.input, most.release):
        event(_taught(filtered), filters, shown, **_PRIVATE)
    leaf.release(_taught(filtered), [*filters, leaf], shown, **_PRIVATE)

    watched: dict[str | None, tuple[int, Chosen]] = {}  # run and choice of the film that a visitor waits for

    def pick(place: int, text: str, request: gr.Request, asked: int = ANY) -> tuple[Chosen, str, str]:
        seed, html, empty = page.choose(place, text, asked)
        watched[request.session_hash] = (place, (seed, asked))
        return (seed, asked), html, empty

    def typed(place: int, text: str, asked: int, request: gr.Request) -> tuple[Chosen, str, str]:
        return pick(place, text, request, asked)

    def clicked(place: int, event: gr.EventData, request: gr.Request) -> tuple[Chosen, str, str]:
        return pick(place, str(event.seed), request)

    def opened(request: gr.Request) -> tuple[Chosen, str, str]:
        return pick(0, page.first_seed(0), request)

    def another(place: int, request: gr.Request) -> list[Any]:
        choices, classes = _group_choices(page, place), _class_choices(page, place)
        return [
            gr.Radio(**choices), gr.Dropdown(**classes), gr.Dropdown(**classes), gr.Dropdown(**_asked_choices(page, place)), 100,
            page.answers(place), *filtered(ANY, place, choices["value"], ANY, ANY, 100),
            *pick(place, page.first_seed(place), request),
        ]  # fmt: skip

    def filmed(place: int, choice: Chosen, request: gr.Request) -> Iterator[Any]:
        yield gr.skip()  # Gradio empties the outputs of a generator that yields nothing
        with closing(page.film(place, *choice)) as moments:
            while watched[request.session_hash] == (
                place,
                choice,
            ):  # until a later click, whose film waits for this one
                moment = next(moments, None)
                if moment is None:
                    return
                yield moment

    chosen_pair = [chosen, pair, film]
    for picked in (
        demo.load(opened, None, chosen_pair, **_PRIVATE),
        gallery.click(_taught(clicked), run, chosen_pair, trigger_mode="multiple", **_PRIVATE),  # in order
        seed.submit(_taught(typed), [run, seed, asked], chosen_pair, **_PRIVATE),
        run.input(_taught(another), run, [which, before, after, asked, most, told, *shown, *chosen_pair], **_PRIVATE),
    ):
        picked.success(
            filmed,
            [run, chosen],
            film,
            trigger_mode="multiple",
            concurrency_limit=1,
            concurrency_id="film",
            **_PRIVATE,
        )
    view.input(None, view, None, js="(view) => { document.querySelector('#vdu-viewer').dataset.view = view; }")


def _checkpoints(demo: Any, page: Page, run: Any) -> None:
    """The trade-off along the checkpoints."""
    import gradio as gr

    gr.HTML(page.unlike() + Markup("<p>{}</p>").format(_CURVE), elem_classes="vdu-say")
    step = gr.Radio(**_step_choices(page, 0), label="Step", elem_id="vdu-step")
    with gr.Row():
        with gr.Column(min_width=320):
            chart = gr.HTML(elem_id="vdu-chart")
        with gr.Column(min_width=320):
            table = gr.HTML(elem_id="vdu-numbers")
            measure = gr.Button("Measure", variant="primary", elem_id="vdu-measure", visible=False)
    panel = [chart, table]

    def opened() -> list[Any]:
        missing = page.missing()
        return [*page.curve(0, "final"), gr.Button(missing, visible=bool(missing))]

    def another(place: int) -> list[Any]:
        return [gr.Radio(**_step_choices(page, place)), *page.curve(place, "final")]

    demo.load(_taught(opened), None, [*panel, measure], **_PRIVATE)
    run.input(_taught(another), run, [step, *panel], **_PRIVATE)
    step.input(_taught(page.curve), [run, step], panel, trigger_mode="always_last", **_PRIVATE)
    measure.click(_taught(page.measure), [run, step], panel, concurrency_limit=1, **_PRIVATE).then(
        lambda: opened()[-1], None, measure, **_PRIVATE
    )


_CURVE = (
    "Each dot is the model at one step: up is more forgotten, left is closer to the reference. The dashed line is the original's "
    "samples without the unwanted ones: all forgotten, nothing damaged. A dot has as many images as the report; the last has its numbers."
)


def _group_choices(page: Page, place: int) -> dict[str, Any]:
    names = group_names(page.runs[place].data)
    return {"choices": [(name, key) for key, name in names.items()], "value": next(iter(names))}


def _step_choices(page: Page, place: int) -> dict[str, Any]:
    return {"choices": [(each.label, each.name) for each in page.runs[place].checkpoints], "value": "final"}


def _class_choices(page: Page, place: int) -> dict[str, Any]:
    names = page.runs[place].data.classes
    return {"choices": [("any", ANY), *((name, i) for i, name in enumerate(names))], "value": ANY}


def _asked_choices(page: Page, place: int) -> dict[str, Any]:
    """The prompts or labels; hidden for unconditional models."""
    names = (page.runs[place].data.words or {"asked": []})["asked"]
    choices = [("any", ANY), *((name or "(empty prompt)", i) for i, name in enumerate(names))]
    return {"choices": choices, "value": ANY, "visible": bool(names)}


def _taught(function: Any) -> Any:
    """The same function, whose InputError becomes a message on the page that goes after a while."""
    import gradio as gr

    def told(error: InputError) -> Exception:
        return gr.Error(str(Markup.escape(str(error))), duration=TOAST_SECONDS, print_exception=False)

    @functools.wraps(function)
    def streaming(*values: Any) -> Iterator[Any]:
        try:
            yield from function(*values)
        except InputError as error:
            raise told(error) from error

    @functools.wraps(function)
    def plain(*values: Any) -> Any:
        try:
            return function(*values)
        except InputError as error:
            raise told(error) from error

    return streaming if inspect.isgeneratorfunction(function) else plain
