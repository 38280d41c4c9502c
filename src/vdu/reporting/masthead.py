"""What the report is about: its dates, the models, the method in words, how far the run went, and who answers for it.

NOT guaranteed: any of it beyond what the run recorded. ``by`` is what the caller said.
"""

import re
from dataclasses import dataclass
from typing import Any

from vdu.core.records import sha256_bytes
from vdu.reporting.collect import ReportData
from vdu.reporting.findings.reliability import stopping

__all__ = ["Masthead", "masthead", "method_words"]

_METHODS = {
    "distillation": "distils the score that the model would have without the forget set",
    "retrack": "denoises forget images towards generated samples that are unlike them",
    "anchor": "forgets under a bound on how far predictions on kept images may move",
    "bounded": "raises the error on forget images by a loss that fades once they are denoised badly",
    "conflict-free": "ascends on forget images only where the kept ones do not suffer",
    "vdu": "Variational Diffusion Unlearning: ascent, held by the posterior of the weights",
    "ascent": "gradient ascent on the forget images, without a regulariser",
    "selective-amnesia": "Selective Amnesia: pulls the model towards noise, held by a Fisher penalty",
    "esd": "ESD: guides predictions away from the concept, or from a copy fine-tuned on the forget images",
    "concept-ablation": "concept ablation: predicts under the concept what it predicts under another label or prompt",
    "uce": "UCE: edits the cross-attention in closed form, so that a prompt is read as another one",
    "salun": "SalUn: relabels the forget images, or ascends on them, on the most salient half of the weights",
    "erasediff": "EraseDiff: trains forget images towards a wrong target under a retain constraint",
    "siss": "SISS: subtracts a forget loss from a keep loss at a fixed ratio",
    "finetune": "continues training on kept images; does not use the forget images",
}


@dataclass(frozen=True)
class Masthead:
    """What a report is about; None where the run did not record it.

    Attributes:
        id: the first 8 digits of the SHA-256 of the unlearned weights; where text encoders or autoencoder are others than the
            original's, of this hash and theirs.
        date: of the evaluation, or of the run, UTC (ISO 8601).
        unlearned_date: of the run, where the evaluation has a date of its own.
        by: the person or team that answers for the report.
        model: name of the original.
        original_id: the first 8 digits of the SHA-256 of its weights.
        method: name of the method that was used.
        method_words: what it does, and whether with self-improvement; empty for a method that is not built in.
        steps: optimiser steps taken.
        max_steps: those that were allowed.
        vdu: version of vdu that unlearned.
    """

    id: str
    date: str | None
    unlearned_date: str | None
    by: str | None
    model: str
    original_id: str
    method: str | None
    method_words: str
    steps: int | None
    max_steps: int | None
    vdu: str | None


def method_words(method: str | None) -> str:
    """What a method does, in a few words; empty for one that is not built in."""
    return _METHODS.get(method or "", "")


def masthead(data: ReportData, by: str | None = None) -> Masthead:
    """Read a run's masthead.

    Args:
        data: the collected run.
        by: who answers for the report.

    Returns:
        The masthead.
    """
    settings, run = data.settings, data.run
    stopped = stopping(data) or {}
    last = max((record["step"] for record in data.log if isinstance(record["step"], int)), default=None)
    protocol, original = data.metrics["protocol"], _dict(_dict(run.get("inputs")).get("model"))
    unlearned = _dict(run.get("pipeline"))
    method, evaluated = settings.get("method"), _date(data.metrics.get("date"))
    return Masthead(
        id=_id(
            unlearned.get("sha256") or protocol.get("unlearned_sha256"),
            unlearned.get("parts_sha256") or protocol.get("unlearned_parts_sha256"),
            original.get("parts_sha256") or protocol.get("original_parts_sha256"),
        ),
        date=evaluated or _date(run.get("date")),
        unlearned_date=_date(run.get("date")) if evaluated and run.get("verb") == "unlearn" else None,
        by=by,
        model=_model_name(original.get("path")),
        original_id=_id(original.get("sha256") or protocol.get("original_sha256")),
        method=method if isinstance(method, str) else None,
        method_words=method_words(method if isinstance(method, str) else None) + _improvement(data),
        steps=stopped.get("step", last),
        max_steps=steps if isinstance(steps := settings.get("steps"), int) else None,
        vdu=_dict(_dict(run.get("environment")).get("packages")).get("vdu"),
    )


def _improvement(data: ReportData) -> str:
    """Whether distillation also corrected the original's own errors; nothing where the run does not tell."""
    if any("self_model" in each for each in data.run.get("stages") or ()):
        return ", with self-improvement: it also corrects some of the original's own errors"
    options = {
        name: value for name, _, value in (str(each).partition("=") for each in data.settings.get("option") or ())
    }
    is_off = re.fullmatch(r"0*\.?0*", options.get("self_improvement", "on"))
    return ", without self-improvement: it only forgets" if is_off else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _id(sha256: Any, parts: Any = None, parts_before: Any = None) -> str:
    """The first digits of a model's hash; with that of its other parts where both are known and these changed."""
    if not _is_sha256(sha256):
        return "not recorded"
    changed = _is_sha256(parts) and _is_sha256(parts_before) and parts != parts_before
    return (sha256_bytes(f"{sha256}{parts}".encode()) if changed else sha256)[:8]


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _date(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d[T0-9:+Z.-]*", value) else None


def _model_name(path: Any) -> str:
    """The folder's name, its run's where it is the pipeline of one, or the Hub's where it lies in the Hub's cache."""
    parts = re.split(r"[/\\]", str(path or "").rstrip("/\\"))
    hub = next((part for part in parts if part.startswith("models--")), None)
    if hub:
        return hub.removeprefix("models--").replace("--", "/")
    return (parts[-2] if len(parts) > 1 and parts[-1] == "pipeline" else parts[-1]) or "not recorded"
