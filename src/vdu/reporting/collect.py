"""Reads a run folder into one checked, frozen record: everything an evidence report shows, and nothing else.

Read: ``metrics.json``, ``run.json``, ``log.jsonl``, ``config.toml``, ``samples/original.safetensors`` and
``samples/unlearned.safetensors``. A missing file, another format version, a value of the wrong kind or two sample
files that do not start from the same noise stop the reading. Files that contradict each other (the class counts of
the samples and of ``metrics.json``) become warnings that the report prints first.

Units: PUL and its ceiling in percent; error and false-positive rates as fractions; images uint8 [N, H, W, C].

NOT guaranteed: that the numbers are right. They are taken as the run wrote them; only their agreement is checked.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdu.core.errors import InputError
from vdu.core.records import read_json, read_toml, sha256_file
from vdu.reporting.code_texts import warning_text
from vdu.reporting.files import Samples, read_log, read_samples
from vdu.reporting.legacy import current_metrics, current_run
from vdu.reporting.probe_records import PROBES
from vdu.reporting.records import check_metrics

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FORMAT_VERSION", "ReportData", "Samples", "collect", "read_metrics", "read_records", "report_data"]

FORMAT_VERSION = 1
_MAKERS = {
    "metrics.json": "vdu evaluate",
    "run.json": "vdu unlearn",
    "log.jsonl": "vdu unlearn",
    "config.toml": "vdu unlearn",
    "samples/original.safetensors": "vdu evaluate",
    "samples/unlearned.safetensors": "vdu evaluate",
}


@dataclass(frozen=True, eq=False)
class ReportData:
    """A run folder's content, checked.

    Attributes:
        run_dir: the folder.
        metrics: ``metrics.json``, in the form of this version (:mod:`vdu.reporting.legacy`).
        run: ``run.json``, likewise.
        config: the text of ``config.toml``.
        log: one record per logged training step, in order: ``{"step", "loss", "terms"}``.
        original: samples of the model before unlearning.
        unlearned: samples of the model after it, from the same noise.
        forget_ids: indices of the judge's classes that were to be forgotten; empty when it cannot be told.
        warnings: the run's own warnings, then the contradictions found while reading.
        contradictions: those of the warnings that say that the files disagree.
    """

    run_dir: Path
    metrics: dict[str, Any]
    run: dict[str, Any]
    config: str
    log: tuple[dict[str, Any], ...]
    original: Samples
    unlearned: Samples
    forget_ids: tuple[int, ...]
    warnings: tuple[str, ...]
    contradictions: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run."""
        return tomllib.loads(self.config)

    @property
    def classes(self) -> list[str]:
        """The judge's class names, in the order of its indices."""
        return self.metrics["histogram"]["classes"]

    @property
    def words(self) -> dict[str, Any] | None:
        """What the models were asked for, of conditional models."""
        return self.metrics.get("words")

    @property
    def concept(self) -> str | None:
        """What was to be forgotten, in the words of who asked a text-to-image model to forget it; else None."""
        words = self.words
        return ", ".join(words["concepts"]) if words is not None and words["kind"] == "prompts" else None

    def asked(self, i: int) -> str | None:
        """The prompt or label of a stored pair; None for unconditional models."""
        return (
            None if self.words is None or self.original.asked is None else self.words["asked"][self.original.asked[i]]
        )

    @property
    def asks_for_it(self) -> "np.ndarray | None":
        """Which stored pairs were drawn under prompts that ask for the concept, bool [N]; None where nothing was asked in prompts."""
        if self.concept is None or self.words is None or self.original.asked is None:
            return None
        target = next(each["prompts"] for each in self.words["sets"] if each["name"] == "target")
        return self.original.asked < len(target)  # these come first

    def row(self, name: str) -> dict[str, Any] | None:
        """Return the reference row of that name, or None when the run has no such row."""
        return next((row for row in self.metrics["rows"] if row["name"] == name), None)


def collect(run_dir: Path | str) -> ReportData:
    """Read and check a run folder.

    Args:
        run_dir: the run folder.

    Returns:
        Its content. Refused (InputError): a missing file (the message names it and the command that makes it), another
        format version, or values that a report cannot show.
    """
    folder = Path(run_dir)
    _require_files(folder, tuple(_MAKERS))
    metrics, run = read_records(folder)
    n_classes = len(metrics["histogram"]["classes"])
    original = read_samples(folder / "samples/original.safetensors", n_classes)
    unlearned = read_samples(folder / "samples/unlearned.safetensors", n_classes)
    _require_same_noise(folder, original, unlearned)
    log, log_warnings = read_log(folder / "log.jsonl")
    forget_ids = _forget_ids(metrics)
    _require_asked(folder, metrics, original, unlearned)
    steps = (run.get("pipeline") or {}).get("steps")
    of_model = tuple(line for line in log if steps is None or line["step"] <= steps)
    contradictions = _contradictions(metrics, run, original, unlearned)
    for name, sha256 in metrics.get("samples_sha256", {}).items():  # earlier versions recorded none
        if sha256_file(folder / "samples" / f"{name}.safetensors") != sha256:
            contradictions.append(
                f"The {name} samples are not those that metrics.json was made of, as after an interruption; run `vdu evaluate` again."
            )
    if len(of_model) < len(log):
        contradictions.append(
            f"The log goes on to step {log[-1]['step']:,}, and the model here is that of step {steps:,}: the run was continued and is not "
            "finished. Continue it, and evaluate it again."
        )
    warnings = [*(warning_text(each, metrics) for each in metrics["warnings"]), *log_warnings, *contradictions]
    strangers = [name for name in metrics.get("probes", {}) if name not in PROBES]
    if strangers:
        warnings.append(f"Probes that this version cannot show: {', '.join(strangers)}; see metrics.json.")
    if not forget_ids:
        warnings.append("None of the judge's classes is named as the forget class, so the pairs are shown unordered.")
    read_toml(folder / "config.toml")  # refuses a damaged one
    return ReportData(
        run_dir=folder,
        metrics=metrics,
        run=run,
        config=(folder / "config.toml").read_text(encoding="utf-8"),
        log=of_model,
        original=original,
        unlearned=unlearned,
        forget_ids=forget_ids,
        warnings=tuple(warnings),
        contradictions=tuple(contradictions),
    )


def read_records(run_dir: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read and check a run's two records, ``metrics.json`` and ``run.json``.

    Args:
        run_dir: the run folder.

    Returns:
        Their content.

    Raises:
        InputError: as by :func:`collect`; and if the run has made another model since it was evaluated.
    """
    folder = Path(run_dir)
    _require_files(folder, ("metrics.json", "run.json"))
    metrics, run = read_metrics(folder), current_run(_read_versioned(folder / "run.json"))
    for name in ("sha256", "parts_sha256"):
        measured, made = metrics["protocol"].get(f"unlearned_{name}"), (run.get("pipeline") or {}).get(name)
        if run.get("verb") == "evaluate":  # of two pipelines
            made = ((run.get("inputs") or {}).get("unlearned") or {}).get(name)
        if measured is not None and made is not None and measured != made:
            raise InputError(
                f"{folder}: metrics.json measured the model with SHA-256 {measured[:12]}…, and the run has made {made[:12]}… since, as "
                f"when it is continued with more steps; expected evidence of the present model. Run `vdu evaluate "
                f"{f'--before A --after B -o {folder}' if run.get('verb') == 'evaluate' else folder}` again."
            )
    return metrics, run


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read and check ``metrics.json`` alone, as :func:`read_records` does."""
    metrics = current_metrics(_read_versioned(folder / "metrics.json"))
    check_metrics(metrics, folder / "metrics.json")
    return metrics


def report_data(
    folder: Path, metrics: dict[str, Any], run: dict[str, Any], warnings: tuple[str, ...] = ()
) -> ReportData:
    """What the answers need, from records alone: without images, log and settings.

    Args:
        folder: the run folder.
        metrics: as :func:`read_metrics` gives it.
        run: ``run.json``, or what is known of it.
        warnings: those of the report.

    Returns:
        The data, of no image.
    """
    import numpy as np

    none = Samples(np.zeros((0, 1, 1, 1), np.uint8), *(np.zeros(0, int) for _ in range(3)))
    return ReportData(folder, metrics, run, "", (), none, none, _forget_ids(metrics), warnings, ())


def _require_files(folder: Path, names: tuple[str, ...]) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder. Give the --output-dir of a run that `vdu evaluate` has seen.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        lines = "".join(f"\n  {name}: made by `{_MAKERS[name]}`" for name in missing)
        raise InputError(f"{folder}: the run is not complete; a report needs these files too:{lines}")


def _read_versioned(path: Path) -> dict[str, Any]:
    value = read_json(path)
    got = value.get("format_version") if isinstance(value, dict) else None
    if got != FORMAT_VERSION:
        raise InputError(
            f"{path}: got format_version {got!r}, expected {FORMAT_VERSION}. "
            f"Run `{_MAKERS[path.name]}` again with this version of vdu, or report with the version that wrote it."
        )
    return value


def _require_same_noise(folder: Path, original: Samples, unlearned: Samples) -> None:
    if original.images.shape != unlearned.images.shape:
        got = f"{list(original.images.shape)} before and {list(unlearned.images.shape)} after"
        raise InputError(
            f"{folder}: sample images [N, H, W, C] are {got}; expected the same. Run `vdu evaluate` again."
        )
    if (original.seeds != unlearned.seeds).any():
        raise InputError(
            f"{folder}: the two sample files have different seeds, so image i is not the same noise before and after. "
            "Run `vdu evaluate` again: it draws both from one list of seeds."
        )


def _require_asked(folder: Path, metrics: dict[str, Any], original: Samples, unlearned: Samples) -> None:
    """Refuse samples that number no known prompt, or that were not asked alike."""
    words, asked = metrics.get("words"), original.asked
    if words is None:
        return
    both = asked is not None and unlearned.asked is not None and not (asked != unlearned.asked).any()
    if not both or asked is None or asked.min() < 0 or asked.max() >= len(words["asked"]):
        raise InputError(
            f"{folder}: the sample files do not number the {len(words['asked'])} {words['kind']} of metrics.json alike. Run "
            "`vdu evaluate` again."
        )


def _forget_ids(metrics: dict[str, Any]) -> tuple[int, ...]:
    """Return indices of the judge's classes to forget: by name; of a fallback classifier "forget", whatever the user's names are."""
    forget, classes = metrics["forget"], metrics["histogram"]["classes"]
    own = [] if metrics["judge"]["source"] == "fallback" else forget["classes"] or []
    for names in (own, ["forget"], [forget["description"]]):
        if any(name in names for name in classes):
            return tuple(i for i, name in enumerate(classes) if name in names)
    return ()


def _contradictions(metrics: dict[str, Any], run: dict[str, Any], before: Samples, after: Samples) -> list[str]:
    import numpy as np

    found = []
    if run.get("finished") is False:
        found.append("run.json says that this run was not finished.")
    kept = np.ones(len(before.images), bool)
    if (words := metrics.get("words")) is not None and words["kind"] == "prompts" and before.asked is not None:
        kept = before.asked >= len(next(each["prompts"] for each in words["sets"] if each["name"] == "target"))
    if kept.sum() != metrics["n_images"]:
        found.append(f"{kept.sum()} sample pairs are stored; the numbers come from {metrics['n_images']}.")
        return found
    for name, samples in (("original", before), ("unlearned", after)):
        counted = np.bincount(samples.judge_class[kept], minlength=len(metrics["histogram"]["classes"])).tolist()
        if counted != metrics["histogram"][name]:
            found.append(
                f"The {name} samples and metrics.json disagree about the class counts; run `vdu evaluate` again."
            )
    flips = np.zeros_like(np.asarray(metrics["flips"]["counts"]))
    if metrics["flips"]["classes"] == metrics["histogram"]["classes"]:
        np.add.at(flips, (before.judge_class[kept], after.judge_class[kept]), 1)
        if flips.tolist() != metrics["flips"]["counts"]:
            found.append("The samples and metrics.json disagree about the flip table; run `vdu evaluate` again.")
    return found
