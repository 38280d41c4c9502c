"""Where a report came from, in groups: model, data, measuring, software, files; each value under a name in words.

Whatever the records hold beyond the known keys stands in the group where it belongs, its key with blanks for underscores.

NOT guaranteed: that the run is what it says; ``vdu verify`` checks the hashes.
"""

from vdu.core.records import sha256_file
from vdu.reporting.collect import ReportData
from vdu.reporting.formatting import flat

__all__ = ["READ_FILES", "provenance"]

READ_FILES = (
    "metrics.json",
    "run.json",
    "log.jsonl",
    "config.toml",
    "samples/original.safetensors",
    "samples/unlearned.safetensors",
)
_WORDS = {
    "sha256": "SHA-256",
    "configuration_sha256": "SHA-256 of the configuration",
    "parts_sha256": "SHA-256 of text encoders and autoencoder",
    "weights_sha256": "SHA-256 of the weights",
    "n_images": "number of images",
    "n_judge_samples": "generated samples for a fallback classifier",
    "cpu": "CPU",
    "cpu_cores": "CPU cores",
    "python": "Python",
    "eta": "η",
    "suite": "tests",
    "judge": "classifier (judge)",
    "second_judge": "second classifier",
}
_PLACES = {
    "inputs.model": "Model",
    "inputs.posterior": "Model",
    "pipeline": "Model",
    "inputs": "Data",
    "environment": "Software and machine",
    "protocol": "Measuring",
}
_SUBJECTS = {
    "inputs.model": "original",
    "inputs.posterior": "posterior",
    "inputs.forget": "forget set",
    "pipeline": "unlearned model",
    "environment.packages": "",
    "environment.hardware": "",
    "environment": "",
    "protocol": "",
    "inputs": "",
}
_MODELS = ("original", "unlearned", "retrained")
_SAMPLER = ("scheduler", "inference_steps", "eta", "microbatch_size")  # repeated by sampler_… with what they became


def provenance(data: ReportData) -> dict[str, list[tuple[str, str]]]:
    """The facts, as name and text, by group.

    Args:
        data: the collected run.

    Returns:
        The groups in the order of the page.
    """
    metrics, run = data.metrics, data.run
    found: dict[str, list[tuple[str, str]]] = {
        name: [] for name in ("Model", "Data", "Sampler", "Measuring", "Software and machine", "Files")
    }
    protocol = dict(metrics["protocol"])
    for model in _MODELS:
        for key in ("path", "sha256", "configuration_sha256", "parts_sha256"):
            value = protocol.pop(f"{model}_{key}", None)
            if value is not None and model == "retrained":
                found["Model"].append((f"retrained model: {_WORDS.get(key, key)}", str(value)))
    sampler = {key: protocol.pop(key) for key in list(protocol) if key.startswith("sampler")}
    if "sampler_scheduler" in sampler:
        for key in _SAMPLER:
            protocol.pop(key, None)
    found["Sampler"] = [(_words(name.removeprefix("sampler_")), value) for name, value in flat(sampler)]
    records = {"inputs": run.get("inputs"), "pipeline": run.get("pipeline"), "environment": run.get("environment")}
    for name, value in flat({
        key: each for key, each in (records | {"protocol": protocol}).items() if each is not None
    }):
        subject = next((each for each in _SUBJECTS if name.startswith(f"{each}.")), "")
        group = next((group for place, group in _PLACES.items() if name.startswith(place)), "Measuring")
        rest = _words(name.removeprefix(f"{subject}."))
        found[group].append((f"{_SUBJECTS[subject]}: {rest}" if subject and _SUBJECTS[subject] else rest, value))
    for earlier in run.get("earlier_environments", ()):
        found["Software and machine"] += [
            (f"earlier part: {_words(name.removeprefix('packages.').removeprefix('hardware.'))}", value)
            for name, value in flat(earlier)
        ]
    forget, reference = metrics["forget"], metrics["reference"]
    if not any(name == "forget set: SHA-256" for name, _ in found["Data"]):
        found["Data"].append(("forget set", f"{forget['description']}, {forget['n_images']:,} images"))
        found["Data"].append(("forget set: SHA-256", str(forget["sha256"])))
    found["Data"].append(("reference", f"{reference['description']}, {reference['n_images']:,} images"))
    found["Measuring"].append(("feature network", str(metrics["feature_network"])))
    found["Files"] = [(name, sha256_file(data.run_dir / name)) for name in READ_FILES]
    stated = {name: [fact for fact in facts if fact[1]] for name, facts in found.items()}
    return {name: facts for name, facts in stated.items() if facts}


def _words(name: str) -> str:
    """A dotted key in words: its last part known, or with blanks for underscores."""
    *front, last = name.split(".")
    features = last.startswith("features_")
    last = last.removeprefix("features_")
    text = ": ".join([*(part.replace("_", " ") for part in front), _WORDS.get(last, last.replace("_", " "))])
    return f"feature network: {text}" if features else text
