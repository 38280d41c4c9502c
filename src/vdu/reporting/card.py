"""The model card of an unlearned pipeline: what was forgotten, from what, how, and what was measured of it.

``vdu unlearn`` writes the card beside the weights; ``vdu evaluate`` puts figures and limits into it, between two marks, so
that what a person wrote elsewhere in it stays. It never holds an image, least of all one of the forget set.

NOT guaranteed: that figures say enough to ship a model. The evidence report says more.
"""

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vdu.core.records import atomic_file, passed_over, read_json, read_toml
from vdu.reporting.code_texts import guarantee_text, source_text
from vdu.reporting.collect import report_data
from vdu.reporting.evidence_json import QUESTIONS
from vdu.reporting.findings.gone import rate_text
from vdu.reporting.findings.trust import not_tested
from vdu.reporting.formatting import number
from vdu.reporting.headline_figures import FIGURES as HEADLINES
from vdu.reporting.headline_figures import ComparedRun, figures
from vdu.reporting.legacy import current_metrics
from vdu.reporting.render import answers

__all__ = ["check_card", "foreign_lines", "has_figures_of_another_evaluation", "update_card", "write_card"]

_UNEXPLAINED = {
    "precision",
    "recall",
    "density",
    "coverage",
    "histogram_distance",
    "histogram_chance",
}  # the report has them

TAGS = ["diffusion", "machine-unlearning", "vdu"]
TEXT = """
# {title}

{kind} diffusion model after approximate machine unlearning with `vdu`. It was made from a pre-trained model to generate the
images described below less often, not never. **Approximate, not certified**: the evidence report of the run states how far it
went and what was not tested.

| | |
|---|---|
{rows}
| settings | {settings} |

Loads in plain diffusers: `DiffusionPipeline.from_pretrained(...)`.
"""
TITLE = "Unlearned: "
KINDS = {"text": "A text-to-image", "classes": "A class-conditional", None: "An unconditional"}
TASKS = {"text": "text-to-image", None: "unconditional-image-generation"}
START, END = "<!-- vdu: figures, written by vdu evaluate -->", "<!-- vdu: end of figures -->"
_OPENING = re.compile(
    r"^An? [a-z-]+ diffusion model after approximate machine unlearning with `vdu`.*?(?=\n\n)", re.M | re.S
)
_SETTINGS = re.compile(r"^\| settings \| .* \|$", re.M)
_BLOCK = re.compile(rf"\n*{re.escape(START)}.*?{re.escape(END)}\n*", flags=re.DOTALL)
FIGURES = """{start}
## The five answers of the evidence report

| question | answer |
|---|---|
{answers}

## Figures

From {n} images of the model before and {n} after, from the same noise; 95 % intervals in brackets. Judge: {judge}.
Written by vdu {version}.

| figure | this model |
|---|---|
{rows}

PUL is the percentage of unwanted images that is gone, by counting{ceiling}. u-FID{of} is the
distance to {reference} on the features of `{features}`, lower is better; the filtered original is the model before with its unwanted
images thrown away: perfect forgetting without damage. Numbers of another N, judge or sampler cannot be compared with these.{doubt}

## Limits

**Approximate, not certified.** These are figures of one run, on samples drawn with {sampler}. Not tested:

{untested}
{end}
"""


def write_card(
    folder: Path, inputs: dict[str, Any], method: str, settings: dict[str, Any], remaining: str = ""
) -> None:
    """Write ``README.md`` with front matter into a pipeline's folder.

    Args:
        folder: the pipeline's folder.
        inputs: the run's record of what went in.
        method: the method's name.
        settings: the settings worth telling.
        remaining: the run's statement about what remains (:func:`vdu.reporting.code_texts.guarantee_text`).
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="diffusers", tags=[*_tags(inputs), method], **_known_of_base(inputs["model"]["path"])
    )
    _write(folder / "README.md", data, _text(inputs, method, settings, remaining))


def _text(inputs: dict[str, Any], method: str, settings: dict[str, Any], remaining: str) -> str:
    """The card without its figures."""
    told = {
        name: " ".join(map(str, each)) if isinstance(each, list | tuple) else each for name, each in settings.items()
    }
    return TEXT.format(
        title=_inline(_title(inputs["forget"])),
        kind=KINDS[_conditioned_on(inputs)],
        rows="\n".join(f"| {name} | {value} |" for name, value in _rows(inputs, method, remaining).items()),
        settings=_inline(", ".join(f"{name} {value}" for name, value in told.items() if _told(value))),
    )


def update_card(run_folder: Path | str, metrics: dict[str, Any]) -> Path:
    """Put figures, limits and what was not tested into the card of a run's pipeline; a second time replaces the first.

    Args:
        run_folder: the folder of ``vdu unlearn``.
        metrics: its ``metrics.json``.

    Returns:
        The path of the card, ``pipeline/README.md``. A run without ``run.json`` is refused.
    """
    from huggingface_hub import ModelCard

    folder, metrics = Path(run_folder), current_metrics(metrics)
    path = folder / "pipeline" / "README.md"
    record = read_json(folder / "run.json")
    if not path.is_file():
        write_card(path.parent, record["inputs"], *_as_recorded(folder / "config.toml"), _remaining(record))
    card = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    data: Any = card.data  # its class is made when the module is imported
    for name, value in _known_of_base(record["inputs"]["model"]["path"]).items():
        if getattr(data, name, None) is None:  # a person may have put in another one
            setattr(data, name, value)
    data.library_name = data.library_name or "diffusers"
    data.tags = list(dict.fromkeys([*(data.tags or []), *_tags(record["inputs"])]))
    data.metrics = ["pul", "u-fid"]
    title, named = _title(record["inputs"]["forget"]), getattr(data, "model_name", None)
    data.model_name = title if (named or TITLE).startswith(TITLE) else named  # a person's own name stays
    data.eval_results = _results(metrics, record["inputs"])
    heading = re.compile(rf"^# {TITLE}.*$", flags=re.MULTILINE)
    text = heading.sub(lambda _: f"# {_inline(title)}", card.text, count=1)
    written = _text(record["inputs"], *_as_recorded(folder / "config.toml"), _remaining(record))
    for part in (_OPENING, _SETTINGS):  # of another version
        ours = part.search(written)
        assert ours is not None
        text = part.sub(lambda _, new=ours[0]: new, text, count=1)
    kept = _BLOCK.sub("\n", text, count=1)
    _write(path, data, kept.rstrip() + "\n\n" + _figures(folder, record, metrics))
    return path


def has_figures_of_another_evaluation(run_folder: Path | str) -> bool:
    """Whether the card of a run's pipeline has other figures than its ``metrics.json``; not known of one by another version of vdu."""
    folder = Path(run_folder)
    path = folder / "pipeline" / "README.md"
    record = read_json(folder / "run.json")
    if record.get("verb") == "evaluate" or not path.is_file():
        return False
    block = _BLOCK.search(path.read_text(encoding="utf-8"))
    wanted = _figures(folder, record, current_metrics(read_json(folder / "metrics.json")))
    same_version = block is not None and _written_by(block[0]) == _written_by(wanted)
    return same_version and block is not None and block[0].split() != wanted.split()


def check_card(run_folder: Path | str) -> Iterator[tuple[str, str | None, str]]:
    """Compare every line that vdu wrote into the card of a run's pipeline with ``run.json``, ``config.toml`` and ``metrics.json``.

    Args:
        run_folder: the folder of ``vdu unlearn``.

    Yields:
        Parts of the card, each as its name, what the card states (None where it does not) and what it should state.
    """
    folder = Path(run_folder)
    card = _card(folder)
    record, metrics = read_json(folder / "run.json"), current_metrics(read_json(folder / "metrics.json"))
    rows = _rows(record["inputs"], _as_recorded(folder / "config.toml")[0], _remaining(record))
    for name, expected in rows.items():
        stated = re.search(rf"^\| {name} \| (.*) \|$", card.text, flags=re.MULTILINE)
        yield f"model card, {name}", stated and stated[1], expected
    data: Any = card.data
    results = [
        {each.metric_type: each.metric_value for each in found or ()}
        for found in (data.eval_results, _results(metrics, record["inputs"]))
    ]
    yield "model card, results in its head", str(results[0]) if results[0] else None, str(results[1])
    block, expected = _BLOCK.search(card.text), _figures(folder, record, metrics)
    text = "" if block is None else block[0]
    same, others = _written_by(text) == _written_by(expected), _lines(card.text)
    in_rows = tuple(f"| {name} |" for name in rows)
    ours = [line for line in _lines_of_vdu(folder, record) if not line.startswith(in_rows)]
    kept = "\n".join(line for line in ours if line in others)
    yield "model card, sentences and settings", kept if same else None, "\n".join(ours)
    headline = [text_of.text for name in ("pul", "u_fid") if (text_of := HEADLINES[name][1](metrics)) is not None]
    stated = ", ".join(each for each in headline if f"| {each} |" in text)
    yield "model card, PUL and u-FID", stated if text else None, ", ".join(headline)
    yield "model card, figures", text.strip() if same else None, expected.strip()


def foreign_lines(run_folder: Path | str) -> list[str]:
    """The lines of a card, outside its head and its figures, that vdu did not write."""
    folder = Path(run_folder)
    if not (folder / "pipeline/README.md").is_file():
        return []
    ours = _lines_of_vdu(folder, read_json(folder / "run.json"))
    return [line for line in _lines(_card(folder).text) if line not in ours and not line.startswith(f"# {TITLE}")]


def _card(folder: Path) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard((folder / "pipeline/README.md").read_text(encoding="utf-8"), ignore_metadata_errors=True)


def _lines(text: str) -> list[str]:
    return [line for each in _BLOCK.sub("\n", text, count=1).splitlines() if (line := each.strip())]


def _lines_of_vdu(folder: Path, record: dict[str, Any]) -> list[str]:
    """The lines without the title, which a person may change."""
    return _lines(_text(record["inputs"], *_as_recorded(folder / "config.toml"), _remaining(record)))[1:]


def _written_by(text: str) -> str | None:
    found = re.search(r"Written by vdu (\S+)\.$", text, flags=re.MULTILINE)
    return found and found[1]


def _rows(inputs: dict[str, Any], method: str, remaining: str) -> dict[str, str]:
    """The rows of the card's first table that ``run.json`` and ``config.toml`` decide."""
    forget, model = inputs["forget"], inputs["model"]
    parts = f", text encoders and autoencoder with `{model['parts_sha256']}`" if "parts_sha256" in model else ""
    beside = passed_over(forget.get("passed_over", {}))
    counted = f"{forget['n_images']} images{f'; {beside}' if beside else ''}, SHA-256 `{forget['sha256']}`"
    return {
        "forgotten": f"{_inline(forget['description'])} ({counted})",
        "made from": f"weights with SHA-256 `{model['sha256']}`{parts}",
        "method": method,
        **({"what remains": _inline(remaining)} if remaining else {}),
    }


def _remaining(record: dict[str, Any]) -> str:
    return guarantee_text(next((each["stopping"] for each in record.get("stages") or () if "stopping" in each), {}))


def _conditioned_on(inputs: dict[str, Any]) -> str | None:
    """Text, classes or nothing; records of before version 0.2 have the classes of pixel models alone."""
    model = inputs["model"]
    return model.get("conditioned_on", "classes" if model.get("class_names") else None)


def _tags(inputs: dict[str, Any]) -> list[str]:
    """The Hub has a tag for unconditional and for text-to-image models, and none for class-conditional ones."""
    first, *rest = TAGS
    task = TASKS.get(_conditioned_on(inputs))
    return [first, *([] if task is None else [task]), *rest]


def _write(path: Path, data: Any, text: str) -> None:
    content = f"---\n{data.to_yaml()}\n---\n{text if text.startswith(chr(10)) else chr(10) + text}"
    with atomic_file(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _told(value: Any) -> bool:
    return value not in (None, "") and not (isinstance(value, (tuple, list, dict)) and not value)


def _title(forget: dict[str, Any]) -> str:
    """What the run itself forgot, never what an evaluation or the model's own card says."""
    return f"{TITLE}{', '.join(forget['classes'] or []) or forget['description']}"


def _known_of_base(path: str) -> dict[str, Any]:
    """License and name of the model that this one was made from, where its card or its place in the cache tells them."""
    from huggingface_hub import ModelCard

    folder, found = Path(path), {}
    in_cache = next((part for part in reversed(folder.parts) if re.fullmatch(r"models--[^/]+", part)), None)
    if in_cache is not None:
        found["base_model"] = in_cache.removeprefix("models--").replace("--", "/")
    card = folder / "README.md"
    if card.is_file():
        data = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
        found |= {name: value for name in ("license", "license_name", "license_link") if (value := data.get(name))}
    return found


def _as_recorded(config: Path) -> tuple[str, dict[str, Any]]:
    """Method and settings as the run recorded them, for a card that was deleted."""
    values = read_toml(config) if config.is_file() else {}
    told = {name: values[name] for name in ("option", "steps", "batch_size", "learning_rate", "seed") if name in values}
    return str(values.get("method", "unknown")), told


def _results(metrics: dict[str, Any], inputs: dict[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    row = next(row for row in metrics["rows"] if row["name"] == "unlearned")
    found, task = [], TASKS.get(_conditioned_on(inputs), "image-generation")
    if row["pul"] is not None:
        name = f"{metrics['n_images']} generated samples, from the same noise as the original's"
        found.append(
            EvalResult(
                task_type=task, dataset_type="own-samples", dataset_name=name, metric_type="pul", metric_name="PUL, percent",
                metric_value=round(row["pul"]["value"], 4),
            )
        )  # fmt: skip
    if (distance := HEADLINES["u_fid"][1](metrics)) is not None:
        found.append(
            EvalResult(
                task_type=task, dataset_type="reference-images", dataset_name=metrics["reference"]["description"],
                metric_type="u-fid", metric_name=_full("u-FID", metrics) + _without_unwanted(metrics),
                metric_value=round(distance.value, 4),
            )
        )  # fmt: skip
    return found


def _full(label: str, metrics: dict[str, Any]) -> str:
    """A label with the whole name of the distance, which is another one on other features."""
    return label.replace("u-FID", f"u-FID[{metrics['protocol'].get('features_label', metrics['feature_network'])}]")


def _without_unwanted(metrics: dict[str, Any]) -> str:
    """Of how many images u-FID is, where many unwanted ones remain."""
    apart = (metrics.get("kept") or {}).get("apart")
    return "" if apart is None else f" (of {apart['n_images']:,} images, without the unwanted)"


def _figures(folder: Path, record: dict[str, Any], metrics: dict[str, Any]) -> str:
    run = ComparedRun(str(folder), metrics, record)
    measured = figures(run)
    pul = next(row["pul"] for row in metrics["rows"] if row["name"] == "unlearned")
    texts = {name: each.text for name, each in measured.items() if each and name not in _UNEXPLAINED}
    if pul:
        texts["unwanted"] = (
            f"{pul['n_unlearned']:,}, {rate_text(pul, metrics['n_images'])}; {pul['n_original']:,} before"
        )
    rows = [f"| {_inline(_full(HEADLINES[name][0], metrics))} | {_inline(each)} |" for name, each in texts.items()]
    found = answers(report_data(folder, metrics, record))
    judge, protocol = metrics["judge"], metrics["protocol"]
    sampler = f"{protocol.get('sampler_scheduler', 'its sampler')}, {protocol.get('sampler_steps', 'unknown')} steps"
    if (scale := protocol.get("sampler_guidance_scale")) is not None:
        sampler += f", guidance scale {number(scale)}"
    return FIGURES.format(
        start=START,
        end=END,
        version=version("vdu"),
        n=f"{metrics['n_images']:,}",
        judge=_inline(
            f"{judge['name']} ({source_text(judge)}), which errs on {number(100 * judge['held_out_error'])} % of "
            f"{judge['n_held_out']:,} held-out images"
        ),
        rows="\n".join(rows),
        answers="\n".join(f"| {QUESTIONS[name]} | {_inline(each.title)} |" for name, each in found.items()),
        ceiling=f"; this judge could show {number(judge['pul_ceiling'])} % at most",
        reference=_inline(metrics["reference"]["description"]),
        features=metrics["feature_network"].replace("`", "'"),
        of=_without_unwanted(metrics),
        doubt="" if run.doubt is None else f" {run.doubt}",
        sampler=_inline(sampler),
        untested="\n".join(f"- {_inline(each)}" for each in not_tested(metrics)),
    )


def _inline(text: str) -> str:
    """A foreign text within a line or a cell of Markdown: no line break, no cell border, no tag."""
    plain = re.sub(
        r"[ \t\r\n\f\v\x1c-\x1e\x85\u2028\u2029]+", " ", str(text)
    ).strip()  # not the no-break space of "5 %"
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace("|", r"\|")
