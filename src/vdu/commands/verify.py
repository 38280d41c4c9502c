"""``vdu verify``: recomputes every hash that a report prints, makes the report again from the run's records, and compares.

What is checked, against ``run.json``, ``metrics.json`` and ``evidence.json``: the forget set where its source is still there, the
original, the unlearned and the retrained model with their configurations, the posterior, the classifier that gives the features, the
files that the report was made from, the counts of the stored samples, the answers and numbers of ``evidence.json``, the page, and
the model card. What is not covered is listed (:data:`NOT_COVERED`, and every hash that was not recomputed).

A page that somebody sent with its ``evidence.json`` is compared with it, and the answers in it with its own numbers. That, and a
run folder that lacks a part of itself, ends as incomplete, never as verified.

Not guaranteed: that the records are genuine. Whoever can change a model can change the hash beside it; keep a copy of
``evidence.json``, or of its hash, elsewhere.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

from vdu.commands.options import GivenFirst
from vdu.core.errors import InputError
from vdu.core.paths import given_path

__all__ = ["NOT_COVERED", "Checked", "VerifySettings", "run", "verify"]

DIFFERS, INCOMPLETE = 3, 4  # exit codes
NOT_COVERED = (
    "that the samples come from these models, and what the classifier says of them (`vdu evaluate` draws and judges them again)",
    "the distances, intervals and tests in metrics.json, which were computed from images and models",
    "dates, times, costs, machine and command, as the run recorded them",
)


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """Recompute the hashes, answers and numbers of a report and compare; exit code 3 if one differs, 4 if a part of it is missing.

    Attributes:
        run: the run folder, after "vdu report"; or a page, or its folder, with evidence.json beside it.
    """

    run: Annotated[Path, GivenFirst] = Path()


@dataclass(frozen=True)
class Checked:
    """Something that was recomputed.

    Attributes:
        item: what.
        answer: "matches", "differs" or "not available".
        detail: both values where they differ, or why the item is not available.
        hashes: the hashes that were compared with.
        own: a part of the report itself; where it is not available, the verification is not complete.
    """

    item: str
    answer: str
    detail: str = ""
    hashes: tuple[str, ...] = ()
    own: bool = False

    def __str__(self) -> str:
        return self.answer + (f" ({self.detail})" if self.detail else "")


def run(settings: VerifySettings) -> dict[str, Any]:
    """Verify a run, or a page with its ``evidence.json``.

    Args:
        settings: see :class:`VerifySettings`.

    Returns:
        An answer for each item, the conclusion, the hash of ``evidence.json``, what is not covered, and ``exit_code`` 3 if an item
        differs, else 4 if a part of the report is missing.
    """
    from vdu.core.records import sha256_file

    found, (folder, _) = verify(settings.run), _place(settings.run)
    code, conclusion = _conclusion(found)
    path = folder / "evidence.json"
    return (
        {each.item: str(each) for each in found}
        | {"conclusion": conclusion}
        | ({"SHA-256 of evidence.json": sha256_file(path)} if path.is_file() else {})
        | {"not covered": [*NOT_COVERED, *_more_not_covered(folder, found)]}
        | ({"exit_code": code} if code else {})
    )


def _conclusion(found: Sequence[Checked]) -> tuple[int, str]:
    """The exit code and a sentence."""
    differ, absent = ([each.item for each in found if each.answer == answer] for answer in ("differs", "not available"))
    missing = [each.item for each in found if each.own and each.answer == "not available"]
    counts = f"{len(found) - len(differ) - len(absent)} of {len(found)} match"
    if differ:
        return DIFFERS, f"DIFFERS: {counts}, {len(differ)} {'differs' if len(differ) == 1 else 'differ'}."
    if missing:
        return INCOMPLETE, f"INCOMPLETE: {counts}, but this could not be checked: {', '.join(missing)}."
    rest = f", {len(absent)} not available" if absent else ""
    return 0, f"{counts}{rest}. This shows consistency, not origin."


def _more_not_covered(folder: Path, found: Sequence[Checked]) -> Iterator[str]:
    """Hashes that nothing recomputed, and lines of the model card that vdu did not write."""
    from vdu.reporting.card import foreign_lines

    covered = {each for checked in found for each in checked.hashes}
    hashes = [name for name, each in _hashes(folder) if each not in covered]
    if not (folder / "run.json").is_file():
        yield f"{len(hashes)} hashes of models, data and files, which are not here"
        return
    yield from (f"the hash {name}" for name in hashes)
    if lines := foreign_lines(folder):
        yield f"{len(lines)} of the model card's lines, which vdu did not write; the first: {lines[0]!r}"


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """Every SHA-256 in ``evidence.json``, with its place."""
    from vdu.reporting.formatting import flat

    for name, value in flat(_optional(folder / "evidence.json")):
        if re.fullmatch(r"[0-9a-f]{64}", value):
            yield name, value


def verify(folder: Path | str) -> tuple[Checked, ...]:
    """Recompute the hashes of a run's report, and make it again.

    Args:
        folder: the run folder; or a page, or its folder, with ``evidence.json`` beside it.

    Returns:
        What was checked, models first.

    Raises:
        InputError: if there is neither a run of ``vdu unlearn``, nor the evidence of two pipelines, nor a page with ``evidence.json``.
    """
    from vdu.core.records import read_json
    from vdu.core.surroundings import own_torch

    folder, page = _place(folder)
    evidence = _optional(folder / "evidence.json")
    if not (folder / "run.json").is_file():
        return tuple(_sent(folder, page, evidence))
    record = read_json(folder / "run.json")
    if not isinstance(record, dict) or record.get("verb") not in {"unlearn", "evaluate"}:
        raise InputError(
            f"{folder}: run.json is not of a run of 'unlearn', nor of the evidence of two pipelines. Give the folder of a `vdu unlearn` "
            "or `vdu evaluate`."
        )
    metrics = _optional(folder / "metrics.json")
    protocol = metrics.get("protocol") or {}
    forget = [(record["inputs"].get("forget") or {}).get("sha256"), (metrics.get("forget") or {}).get("sha256")]
    files = tuple(_files(folder, page, evidence))
    with own_torch():
        return (
            *_models(folder, record, protocol),
            _checked("forget set", forget, lambda: _forget_hash(folder, record)),
            *_features(folder, metrics, record),
            *files,
            *_report(folder, page, evidence, files),
            *(_card(folder) if metrics and record["verb"] == "unlearn" else ()),
        )


def _place(given: Path | str) -> tuple[Path, str]:
    """The folder, and the page's name."""
    path = given_path(given, "folder")
    return (path.parent, path.name) if path.is_file() else (path, "report.html")


def _sent(folder: Path, page: str, evidence: dict[str, Any]) -> Iterator[Checked]:
    """A page with its ``evidence.json``, without the run."""
    if not evidence:
        raise InputError(
            f"{folder}: there is neither run.json nor evidence.json. Give the run folder, or put the evidence.json that was made with "
            f"{page} beside it; a page alone cannot be verified."
        )
    yield from _files(folder, page, evidence | {"provenance": evidence.get("provenance", {}) | {"files": {}}})
    yield from _against_itself(folder, page, evidence, "the run's records and samples are not here")


def _optional(path: Path) -> dict[str, Any]:
    from vdu.core.records import read_json

    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: got a JSON {type(value).__name__}, expected an object. Restore the file, or make it again."
        )
    return value


def _checked(item: str, recorded: Sequence[str | None], compute: Callable[[], str]) -> Checked:
    """Compare with every hash that was recorded; what cannot be read is not available."""
    hashes = tuple(dict.fromkeys(each for each in recorded if each is not None))
    if not hashes:
        return Checked(item, "not available", "the run recorded no hash")
    try:
        got = compute()
    except (InputError, OSError) as error:
        return Checked(item, "not available", str(error), hashes)
    if set(hashes) == {got}:
        return Checked(item, "matches", hashes=hashes)
    return Checked(item, "differs", f"recorded {' and '.join(hashes)}, now {got}", hashes)


def _models(folder: Path, record: dict[str, Any], protocol: dict[str, Any]) -> Iterator[Checked]:
    inputs, made = record["inputs"], record.get("pipeline") or {}
    original = inputs.get("model") or {}
    places = {
        "original": (original.get("path"), original),
        "unlearned": (_unlearned(folder, record), made),
        "retrained": (protocol.get("retrained_path"), _known(protocol, "retrained")),
    }
    for name, (path, recorded) in places.items():
        sha256 = [recorded.get("sha256"), protocol.get(f"{name}_sha256")]
        if name == "retrained" and sha256[1] is None:
            continue
        own = name == "unlearned" and record["verb"] == "unlearn"  # in the run folder itself
        yield replace(_checked(f"{name} model", sha256, lambda path=path: _weights(path)), own=own)
        known = recorded.get("configuration_sha256")
        if known is not None:
            yield _checked(f"{name} model, configuration", [known], partial(_configuration, path, known))
        encoders = recorded.get("parts_sha256")
        if encoders is not None:
            yield _checked(f"{name} model, text encoders and autoencoder", [encoders], partial(_encoders, path))
    posterior = inputs.get("posterior")
    if posterior:
        yield _checked("posterior", [posterior.get("sha256")], lambda: _posterior(posterior.get("path")))


def _known(protocol: dict[str, Any], model: str) -> dict[str, Any]:
    """What an evaluation recorded of a model besides the hash of its weights."""
    names = ("configuration_sha256", "parts_sha256")
    return {name: found for name in names if (found := protocol.get(f"{model}_{name}")) is not None}


def _unlearned(folder: Path, record: dict[str, Any]) -> Path | str | None:
    """The run's own pipeline; of two pipelines the second, wherever it is."""
    return (record.get("pipeline") or {}).get("path") if record["verb"] == "evaluate" else folder / "pipeline"


def _pipeline(path: Path | str | None) -> Any:
    from vdu.models.pipelines import load_pipeline

    if path is None:
        raise InputError("the run did not record where it is")
    return load_pipeline(Path(path), as_recorded=False)


def _weights(path: Path | str | None) -> str:
    from vdu.models.identity import weights_sha256
    from vdu.models.pipelines import network_of

    return weights_sha256(network_of(_pipeline(path)))


def _encoders(path: Path | str | None) -> str:
    from vdu.models.pipelines import parts_of

    return parts_of(_pipeline(path)) or "none"


def _configuration(path: Path | str | None, recorded: str) -> str:
    """The hash of a model's configuration; the recorded one where an earlier version recorded it in its own way."""
    from vdu.models.denoiser import PipelineDenoiser
    from vdu.models.identity import configuration_sha256, is_recorded_configuration

    pipeline = _pipeline(path)
    denoiser = PipelineDenoiser.from_pipeline(pipeline)
    return recorded if is_recorded_configuration(pipeline, denoiser, recorded) else configuration_sha256(denoiser)


def _posterior(path: str | None) -> str:
    from vdu.commands.posterior import load_posterior

    if path is None:
        raise InputError("the run did not record where it is")
    return load_posterior(Path(path)).sha256


def _forget_hash(folder: Path, record: dict[str, Any]) -> str:
    """The hash of the forget set as it is now, from its own source."""
    from vdu.data.forget_source import current_forget
    from vdu.models.denoiser import PipelineDenoiser

    if record["verb"] == "evaluate":  # its models may have been objects; images are never converted
        return current_forget(folder, None).sha256
    shape = PipelineDenoiser.from_pipeline(_pipeline(_unlearned(folder, record))).image_shape
    return current_forget(folder, shape).sha256


def _features(folder: Path, metrics: dict[str, Any], record: dict[str, Any]) -> Iterator[Checked]:
    """The classifier whose features give u-FID, where it was given by its folder or name."""
    from vdu.judges.judging import given_judges
    from vdu.models.denoiser import PipelineDenoiser

    protocol = metrics.get("protocol") or {}

    def weights() -> str:
        if protocol.get("features") != "judge" or protocol.get("judge") is None:
            raise InputError(f"u-FID is on the features of {metrics.get('feature_network')}, which is in no folder")
        original = PipelineDenoiser.from_pipeline(_pipeline((record["inputs"].get("model") or {}).get("path")))
        judging = given_judges(original, metrics["forget"]["classes"] or [], judge=protocol["judge"], second_judge=None)
        assert judging is not None
        return judging.record["weights_sha256"]

    if "features_weights_sha256" in protocol:
        yield _checked("feature network", [protocol["features_weights_sha256"]], weights)


def _files(folder: Path, page: str, evidence: dict[str, Any]) -> Iterator[Checked]:
    from vdu.core.records import sha256_file

    provenance = evidence.get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    if not evidence:
        yield Checked("files of the report", "not available", "there is no evidence.json; run `vdu report`", own=True)
    for name, expected in {**(provenance.get("files") or {}), page: provenance.get("page")}.items():
        if expected is not None:
            yield replace(_checked(name, [expected], lambda name=name: sha256_file(folder / name)), own=True)


def _report(folder: Path, page: str, evidence: dict[str, Any], files: tuple[Checked, ...]) -> Iterator[Checked]:
    """The stored samples' counts and the report made again, or what there is to compare without them."""
    from vdu.reporting.collect import collect
    from vdu.reporting.recheck import check_report

    changed = [each.item for each in files if each.answer != "matches" and each.item != page]
    if evidence and not changed:
        against = collect(folder).contradictions
        yield Checked("counts of the samples", "differs" if against else "matches", " ".join(against))
        yield from (Checked(*each) for each in check_report(folder, evidence, page))
    elif evidence:
        yield from _against_itself(folder, page, evidence, f"{', '.join(changed)}: not what they were made from")


def _against_itself(folder: Path, page: str, evidence: dict[str, Any], why: str) -> Iterator[Checked]:
    from vdu.reporting.recheck import check_evidence_alone

    yield from (Checked(*each) for each in check_evidence_alone(folder, evidence, page))
    yield Checked("the five answers, made again from the run", "not available", why, own=True)


def _card(folder: Path) -> Iterator[Checked]:
    from vdu.reporting.card import check_card

    if not (folder / "pipeline/README.md").is_file():
        yield Checked("model card", "not available", "there is no pipeline/README.md; run `vdu evaluate`", own=True)
        return
    for item, stated, expected in check_card(folder):
        if stated is None:
            yield Checked(item, "not available", "the card does not state it, or another version of vdu wrote it")
        else:
            detail = "" if stated == expected else f"stated {_first_other(stated, expected)}"
            yield Checked(item, "differs" if detail else "matches", detail)


def _first_other(stated: str, expected: str) -> str:
    pairs = zip_longest(stated.splitlines(), expected.splitlines(), fillvalue="")
    return next(f"{old!r}, expected {new!r}" for old, new in pairs if old != new)
