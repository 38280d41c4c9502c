"""Translates ``metrics.json`` and ``run.json`` of older versions; the only place that knows their sentences and old keys.

Older versions wrote sentences where there are codes and numbers now. Where a sentence can be translated it is; where not,
it stays, to be shown as it is (``reason`` of a probe, ``message`` of a warning, ``note`` of a row, ``text`` of the stopping
rule). A record of this version passes unchanged, and so does whatever is not of the expected kind: the check of
:mod:`vdu.reporting.records` comes after, and names it.
"""

import re
from typing import Any

__all__ = ["current_metrics", "current_probe", "current_run", "current_stage"]

_NOTES = {
    "two disjoint sets of real images": "real_split",
    "the original's samples without those that the judge calls forget, drawn until N remain": "filtered_by_judge",
    "the original's samples without those that the second judge calls forget, drawn until N remain": (
        "filtered_by_second_judge"
    ),
    "never saw the class: what the judge calls forget here is its error, or chance likeness": "retrained",
}
_WARNINGS = {
    "The original made only ": "few_forget_images",
    "The judge was trained on the spot": "fallback_judge",
    "No second judge": "no_second_judge",
}
_IMAGES = {
    "forget train": "forget_train",
    "forget held out": "forget_held_out",
    "forget train (no held-out images of the class were given)": "forget_train",
    "retain train": "retain_train",
    "retain held out": "retain_held_out",
    "own samples, rest": "generated_rest",
}
_HIDDEN = {"lower half": "lower_half", "right half": "right_half"}
_PROTOCOL_KEYS = {
    "learning rate is": "learning_rate_is",
    "forget images": "forget_images",
    "benign images": "benign_images",
    "left out": "left_out",
    "evaluation's own sampler": "evaluation_sampler",
    "why this control": "control_reason",
    "original's samples looked through": "n_drawn",
    "judged forget with nothing hidden": "n_forget_shown_whole",
    "judged forget with lower half black": "n_forget_lower_half_black",
    "judged forget with right half black": "n_forget_right_half_black",
    "sets left out (fewer than 2 images)": "left_out",
    "samples of each model": "n_samples",
    "u_fid between two sets of samples of the retrained model (floor)": "floor_u_fid",
}


def current_metrics(metrics: Any) -> Any:
    """``metrics.json`` in the form of this version.

    Args:
        metrics: the parsed file; it is not changed.

    Returns:
        The translation.
    """
    if not isinstance(metrics, dict):
        return metrics
    found = dict(metrics)
    for key, change in (("judge", _judge), ("reference", _reference), ("rows", _rows), ("warnings", _warnings)):
        if key in found:
            found[key] = change(found[key])
    if isinstance(found.get("probes"), dict):
        found["probes"] = {name: current_probe(each) for name, each in found["probes"].items()}
    if isinstance(found.get("cost"), list):
        found["cost"] = [current_stage(each) for each in found["cost"]]
    return found


def current_run(run: Any) -> Any:
    """``run.json`` in the form of this version: its stages (see :func:`current_stage`)."""
    if not isinstance(run, dict) or not isinstance(run.get("stages"), list):
        return run
    return run | {"stages": [current_stage(each) for each in run["stages"]]}


def current_stage(stage: Any) -> Any:
    """A stage with ``stopping`` in the place of the sentence ``ending``; its numbers where the sentence has them."""
    if not isinstance(stage, dict) or not isinstance(stage.get("ending"), str):
        return stage
    text = stage["ending"]
    counts = re.search(r"after (\d+) steps (\d+) of (\d+) own samples.*at most (\d+) was the aim", text)
    numbers = dict(zip(("step", "n_left", "n_seeds", "aim"), map(int, counts.groups()), strict=True)) if counts else {}
    missed = {} if counts else {"missed": "these were all the steps" in text}
    rest = {key: each for key, each in stage.items() if key != "ending"}
    return rest | {"stopping": {"reason": "recorded", "text": text.rstrip("."), **numbers, **missed}}


def _judge(judge: Any) -> Any:
    if not isinstance(judge, dict):
        return judge
    found = dict(judge)
    if found.get("source") == "trained on the spot":
        found["source"] = "fallback"
    if "second" in found:
        found["second"] = _judge(found["second"])
    return found


def _reference(reference: Any) -> Any:
    if not isinstance(reference, dict) or "kind" in reference or not isinstance(reference.get("description"), str):
        return reference
    own = reference["description"].lower().startswith("filtered original")
    return reference | {"kind": "filtered_original" if own else "real"}


def _rows(rows: Any) -> Any:
    return [_row(row) for row in rows] if isinstance(rows, list) else rows


def _row(row: Any) -> Any:
    if not isinstance(row, dict) or "note_code" in row or not isinstance(row.get("note"), str):
        return row
    code = _NOTES.get(row["note"])
    return row | {"note_code": code, "note": "" if code else row["note"]}


def _warnings(warnings: Any) -> Any:
    return [_warning(each) for each in warnings] if isinstance(warnings, list) else warnings


def _warning(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    code = next((code for start, code in _WARNINGS.items() if text.startswith(start)), None)
    return {"code": code} if code else {"code": "python_warning", "message": text}


def current_probe(result: Any) -> Any:
    """A probe's result with codes for image sets and hidden parts, and identifiers as keys of its protocol."""
    if not isinstance(result, dict):
        return result
    found = dict(result)
    if found.get("status") == "not run" and "code" not in found and isinstance(found.get("reason"), str):
        found["code"] = "recorded"
    for key in ("rows", "differences", "denoising"):
        if isinstance(found.get(key), list):
            found[key] = [_probe_row(row) for row in found[key]]
    if isinstance(found.get("protocol"), dict):
        protocol = {_PROTOCOL_KEYS.get(key, key): each for key, each in found["protocol"].items()}
        images = protocol.get("images")
        if isinstance(images, str):
            protocol["images"] = _IMAGES.get(images, images)
        elif isinstance(images, dict):
            protocol["images"] = {_IMAGES.get(key, key): each for key, each in images.items()}
        found["protocol"] = protocol
    return found


def _probe_row(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    found = {key: each for key, each in row.items() if not (key == "note" and row.get("pul", 0) is None)}
    for key, codes in (("images", _IMAGES), ("hidden", _HIDDEN)):
        if isinstance(found.get(key), str):
            found[key] = codes.get(found[key], found[key])
    return found
