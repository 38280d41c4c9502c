"""The end of each verb: the answer in plain words with the next command, or numbers for machines (``--json``).

A verb's ``run`` gives a dictionary; here it becomes text. Nothing is measured here.
"""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdu.core.records import read_json, sha256_file

__all__ = ["numbers", "words"]

Result = Mapping[str, Any]


def words(verb: str, settings: Any, result: Result) -> str:
    """The end of a verb for a reader.

    Args:
        verb: for example "unlearn".
        settings: of the verb.
        result: what its ``run`` gave.

    Returns:
        A few lines; the last one names the next command where there is one.
    """
    lines, following = _WORDS.get(verb, _values)(settings, result)
    return "\n".join([*lines, *([f"next: {following}"] if following else [])])


def numbers(verb: str, settings: Any, result: Result) -> dict[str, Any]:
    """The end of a verb for machines: values, codes and paths, no sentences.

    Args:
        verb: for example "evaluate".
        settings: of the verb.
        result: what its ``run`` gave.

    Returns:
        For "evaluate" and "demo", ``verdicts``, ``probe_verdicts`` and ``metrics`` as in ``evidence.json``, and ``paths``; else the result.
    """
    if verb in {"evaluate", "demo"}:
        return _evidence_numbers(Path(result["run"]), result)
    if verb == "unlearn":
        return {name: value for name, value in result.items() if name != "ending"} | _stopping(result)
    return dict(result)


def _evidence_numbers(folder: Path, result: Result) -> dict[str, Any]:
    from vdu.reporting.collect import collect
    from vdu.reporting.findings.attempt_words import attempt_answers
    from vdu.reporting.findings.inside import inside_answers
    from vdu.reporting.render import answers

    data = collect(folder)
    verdicts, probes = (
        {name: {"level": each.level, "code": each.code} for name, each in found.items()}
        for found in (answers(data), {**attempt_answers(data), **inside_answers(data)})
    )
    metrics = read_json(folder / "metrics.json")
    paths = {"run": str(folder), "metrics": str(folder / "metrics.json")}
    paths |= {name: str(result[name]) for name in ("pipeline", "report") if name in result}
    return {"verdicts": verdicts, "probe_verdicts": probes, "metrics": metrics, "paths": paths}


def _stopping(result: Result) -> dict[str, Any]:
    """The record of the stopping rule, from the run's own record."""
    record = read_json(Path(result["pipeline"]).parent / "run.json")
    found = next((stage["stopping"] for stage in record["stages"] if "stopping" in stage), None)
    return {} if found is None else {"stopping": found}


def _answers(folder: Path) -> list[str]:
    """The five questions of the report with their answers."""
    from vdu.reporting.collect import collect
    from vdu.reporting.evidence_json import QUESTIONS
    from vdu.reporting.render import answers

    found = answers(collect(folder))
    width = max(map(len, QUESTIONS.values()))
    lines = [f"{QUESTIONS[name]:<{width}}  {answer.title}" for name, answer in found.items()]
    return [*lines, "Approximate, not certified: evidence about these samples and tests."]


def _hash(folder: Path) -> str:
    return f"SHA-256 of evidence.json, to keep elsewhere: {sha256_file(folder / 'evidence.json')}"


def _command(*parts: Any) -> str:
    return shlex.join(["vdu", *map(str, parts)])


def _page(path: Any) -> str:
    return Path(path).resolve().as_uri()


def _unlearn(settings: Any, result: Result) -> tuple[list[str], str]:
    ending = result["ending"]
    return [f"{ending[0].upper()}{ending[1:]}.", f"The new pipeline is in {result['pipeline']}."], _command(
        "evaluate", Path(result["pipeline"]).parent
    )


def _evaluate(settings: Any, result: Result) -> tuple[list[str], str]:
    return _answers(Path(result["run"])), _command("report", result["run"])


def _demo(settings: Any, result: Result) -> tuple[list[str], str]:
    lines = [*_answers(Path(result["run"])), f"The report: {_page(result['report'])}", _hash(Path(result["run"]))]
    return lines, _command("unlearn", "MODEL", "IMAGES") + " (your own model)"


def _report(settings: Any, result: Result) -> tuple[list[str], str]:
    lines = [f"The report: {_page(result['report'])}", f"The same for machines: {result['evidence']}"]
    lines.append(_hash(Path(result["evidence"]).parent))
    return lines, _command("explore", settings.run) if _can_be_explored(settings.run) else ""


def _can_be_explored(folder: Path) -> bool:
    """Whether both models are in folders; one that was an object in Python is not, and `vdu explore` refuses it."""
    record = read_json(folder / "run.json")
    original, made = record["inputs"].get("model") or {}, record.get("pipeline") or {}
    return original.get("path") is not None and made.get("path", folder) is not None


def _sample(settings: Any, result: Result) -> tuple[list[str], str]:
    return [f"{result['n_images']} images are in {result['images']}."], f"open {result['grid']}"


def _pretrain(settings: Any, result: Result) -> tuple[list[str], str]:
    if "pipeline" not in result:
        folders = [value for value in result.values() if Path(value).is_dir()]
        members = [part for folder in folders for part in ("--members", folder)]
        return [f"{name}: {value}" for name, value in result.items()], _command(
            "posterior", "ensemble", *folders[:1], *members
        )
    loss = "" if result["loss"] is None else f" (last loss {result['loss']:.4g})"
    return [f"The pipeline is in {result['pipeline']}, after {result['steps']} steps{loss}."], _command(
        "sample", result["pipeline"]
    )


def _import(settings: Any, result: Result) -> tuple[list[str], str]:
    text = f"The pipeline is in {result['pipeline']}: {result['parameters']:,} parameters, {result['schedule']}."
    return [text], _command("sample", result["pipeline"])


def _judge(settings: Any, result: Result) -> tuple[list[str], str]:
    text = f"The judge is in {result['judge']}. It errs on {result['held_out_error']:.2%} of {result['n_held_out']} held-out images."
    return [text], _command("evaluate", "RUN", "--judge", result["judge"])


def _posterior(settings: Any, result: Result) -> tuple[list[str], str]:
    method = "selective-amnesia" if result["estimator"] == "amnesia-fisher" else "vdu"
    lines = [f"The {result['estimator']} posterior is in {result['posterior']}."]
    return lines, _command(
        "unlearn", settings.pipeline, "IMAGES", "--method", method, "--posterior", result["posterior"]
    )


def _compare(settings: Any, result: Result) -> tuple[list[str], str]:
    return [result["table"]], f"open {_page(result['page'])}"


def _list(settings: Any, result: Result) -> tuple[list[str], str]:
    from vdu.commands.list_methods import details, table

    if settings.method is not None:
        return [details(settings.method, result[settings.method])], ""
    return [table(result)], _command("list", "METHOD") + " (its options)"


def _verify(settings: Any, result: Result) -> tuple[list[str], str]:
    """What does not match, each in a line; the conclusion; then a line for each gap."""
    items = {
        name: each
        for name, each in result.items()
        if name not in {"conclusion", "not covered", "SHA-256 of evidence.json"}
    }
    same = [name for name, each in items.items() if each == "matches"]
    sha256 = result.get("SHA-256 of evidence.json")
    lines = [f"matches: {'; '.join(same)}"] if same else []
    lines += [f"{name}: {each}" for name, each in items.items() if each != "matches"]
    lines += [result["conclusion"]] + ([f"SHA-256 of evidence.json: {sha256}"] if sha256 else [])
    return [*lines, "Not covered:", *(f"- {each}" for each in result["not covered"])], ""


def _values(settings: Any, result: Result) -> tuple[list[str], str]:
    return [f"{name}: {value}" for name, value in result.items()], ""


_WORDS: Mapping[str, Callable[[Any, Result], tuple[list[str], str]]] = {
    "compare": _compare,
    "demo": _demo,
    "evaluate": _evaluate,
    "import": _import,
    "judge": _judge,
    "list": _list,
    "posterior": _posterior,
    "pretrain": _pretrain,
    "report": _report,
    "sample": _sample,
    "unlearn": _unlearn,
    "verify": _verify,
}
