"""Several runs beside each other: whether their headline figures can be compared at all.

Figures of two runs are comparable only if they were measured alike. The runs must agree in the number of images N, the
judge and the second judge (name, architecture, source, held-out error), the feature network, the reference images, the
sampler, the forgotten classes, the prompts of the sets "target" and "others" (in whatever order) and, where both tell
their hashes, the retrained model and the content of the reference; otherwise :func:`differences` names what
differs. So must the original, where its own images are the reference; elsewhere another original is noted, as are other
seeds, other images of the same classes and other neighbouring prompts. A probe whose protocol differs is noted as well. Figures that
would be of unlike things are left out, with a note: those of relearning where it ends elsewhere, and those of a retrained model that
may have seen the images.

Units: PUL and rates in percent; u-FID and bits/dim as they are; seconds.

NOT guaranteed: that a difference between two runs is real. Look at the intervals; of three and more runs, the best one is
also the luckiest.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vdu.core.records import sha256_bytes
from vdu.reporting.code_texts import source_text
from vdu.reporting.collect import read_records
from vdu.reporting.formatting import percent, plural
from vdu.reporting.headline_figures import ComparedRun, n_of_u_fid, relearning_end
from vdu.reporting.rates import measured

__all__ = ["PROTOCOL", "differences", "notes", "read_runs"]

SHOWN = 6  # prompts of a set that a sentence names
# of relearning, as they show in its curves in records of every version
SIZES = ("n_shown", "steps", "n_images", "left_out")


def read_runs(folders: Sequence[Path | str]) -> list[ComparedRun]:
    """Read the records of some runs.

    Args:
        folders: run folders that ``vdu evaluate`` has seen.

    Returns:
        The runs, in order.
    """
    return [ComparedRun(str(folder), *read_records(folder)) for folder in folders]


def _judge_words(judge: dict[str, Any] | None) -> str:
    if judge is None:
        return "none"
    error = percent(100 * judge["held_out_error"])
    return f"{judge['name']} ({judge['architecture']}, {source_text(judge)}, error {error} of {judge['n_held_out']:,})"


def _sampler_words(metrics: dict[str, Any]) -> str:
    named = {key: value for key, value in metrics["protocol"].items() if key.startswith("sampler")}
    return (
        ", ".join(f"{key.removeprefix('sampler_')} {value}" for key, value in sorted(named.items())) or "not recorded"
    )


def _features(metrics: dict[str, Any]) -> list[str]:
    """What the protocol tells of the feature network: hash of its weights, preprocessing, batch size."""
    named = sorted((key, value) for key, value in metrics["protocol"].items() if key.startswith("features_"))
    return [f"{key.removeprefix('features_')} {value}" for key, value in named if value != metrics["feature_network"]]


def _prompts(metrics: dict[str, Any], *names: str) -> str:
    """The prompts of some sets; "none" where the models were not asked in words."""
    words = metrics.get("words") or {"kind": "", "sets": []}
    sets = [each for each in words["sets"] if words["kind"] == "prompts" and each["name"] in names]
    return "; ".join(f"{each['name']}: {_listed(sorted(each['prompts']))}" for each in sets) or "none"


def _listed(prompts: Sequence[str]) -> str:
    """Prompts in words; of many the first ones, with a hash of all."""
    told = ", ".join(map(repr, prompts[:SHOWN]))
    if len(prompts) <= SHOWN:
        return told
    return f"{told} and {len(prompts) - SHOWN:,} more, SHA-256 {sha256_bytes(repr(list(prompts)).encode())[:12]}"


PROTOCOL: dict[str, Callable[[dict[str, Any]], str]] = {
    "images per model (N)": lambda m: f"{m['n_images']:,}",
    "judge": lambda m: _judge_words(m["judge"]),
    "second judge": lambda m: _judge_words(m["judge"]["second"]),
    "feature network": lambda m: ", ".join([m["feature_network"], *_features(m)]),
    "reference images": lambda m: f"{m['reference']['description']} ({m['reference']['n_images']:,})",
    "sampler": _sampler_words,
    "forgotten classes": lambda m: ", ".join(sorted(m["forget"]["classes"] or [])) or "not recorded",
    "prompts": lambda m: _prompts(m, "target", "others"),
}


def differences(runs: Sequence[ComparedRun]) -> list[str]:
    """What makes the runs' numbers incomparable, as sentences; empty if nothing does.

    Args:
        runs: two or more.

    Returns:
        One sentence for each part of the protocol in which the runs differ, with who has what.
    """
    told = {what: [read(run.metrics) for run in runs] for what, read in PROTOCOL.items()}
    found = _differing(told, runs)
    known = [run for run in runs if "retrained_sha256" in run.metrics["protocol"]]
    found += _differing_models("retrained", known)
    for name, judge_of in (("judge", lambda m: m["judge"]), ("second judge", lambda m: m["judge"]["second"] or {})):
        known = [run for run in runs if "weights_sha256" in judge_of(run.metrics)]
        found += _differing(
            {f"weights of the {name}": [judge_of(run.metrics)["weights_sha256"][:12] for run in known]}, known
        )
    known = [run for run in runs if "sha256" in run.metrics["reference"]]
    found += _differing(
        {"content of the reference images": [run.metrics["reference"]["sha256"][:12] for run in known]}, known
    )
    if any(run.metrics["reference"]["kind"] == "filtered_original" for run in runs):
        found += _differing_models("original", runs)
    return found


def _differing_models(model: str, runs: Sequence[ComparedRun]) -> list[str]:
    """Where a model of the runs differs: its weights, and all else that determines its images where both tell it."""
    name = f"{model}_configuration_sha256"
    known = [run for run in runs if name in run.metrics["protocol"]]
    told = [f"SHA-256 {run.metrics['protocol'][name][:12]}" for run in known]
    return _differing({f"{model} model": [_hash(run, model) for run in runs]}, runs) + _differing(
        {f"configuration of the {model} model": told}, known
    )


def _hash(run: ComparedRun, model: str) -> str:
    known = (run.metrics["protocol"].get(f"{model}_{name}") for name in ("sha256", "parts_sha256"))
    return ", other parts ".join(str(each)[:12] for each in known if each is not None) or "not recorded"


def notes(runs: Sequence[ComparedRun]) -> list[str]:
    """What differs and does not forbid a comparison: task, original, seeds, and the protocols of probes; and what is left out.

    Args:
        runs: two or more.

    Returns:
        The sentences.
    """
    told = {
        "forget set": [
            f"{run.metrics['forget']['description']} ({run.metrics['forget']['sha256'][:8]})" for run in runs
        ],
        "neighbouring prompts": [_prompts(run.metrics, "neighbours") for run in runs],
        "seed of the evaluation": [str(run.metrics["protocol"].get("seed", "not recorded")) for run in runs],
        "number of images of u-FID, on which it depends,": [f"{n_of_u_fid(run.metrics):,}" for run in runs],
    }
    found = _differing(told, runs) + _differing_models("original", runs)
    found += [f"{run.name}: {run.doubt} Its figures are left out." for run in runs if run.doubt is not None]
    ends = [(run, end) for run in runs if (end := relearning_end(run.metrics)) is not None]
    words = [f"{plural(step, 'step')} on {plural(n, 'unwanted image')}" for _, (n, step) in ends]
    unlike = _differing({"end of relearning": words}, [run for run, _ in ends])
    found += [f"{each}; its figures are left out" for each in unlike]
    for name in dict.fromkeys(name for run in runs for name in run.metrics.get("probes", {})):
        protocols = [probe["protocol"] for run in runs if (probe := measured(run.metrics, name)) is not None]
        keys = sorted({k for p in protocols for k in p if any(q.get(k) != p[k] for q in protocols)})
        if name == "relearning":
            keys = [key for key in keys if key not in SIZES]
        if keys:
            found.append(
                f"The protocols of the probe {name} differ ({', '.join(keys)}): its row compares unlike things."
            )
    return found


def _differing(told: dict[str, list[str]], runs: Sequence[ComparedRun]) -> list[str]:
    sentences = []
    for what, values in told.items():
        if len(set(values)) > 1:
            who = {
                value: [run.name for run, each in zip(runs, values, strict=True) if each == value] for value in values
            }
            sentences.append(f"{what} differs: " + "; ".join(f"{value} in {', '.join(n)}" for value, n in who.items()))
    return sentences
