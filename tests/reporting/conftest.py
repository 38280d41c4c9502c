"""A small synthetic run folder, made with numpy alone: seven-segment digits, which a person can read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
BARS = {
    "a": (0, 0, 1, 0),
    "b": (0, 1, 1, 1),
    "c": (1, 1, 2, 1),
    "d": (2, 0, 2, 1),
    "e": (1, 0, 2, 0),
    "f": (0, 0, 1, 0),
    "g": (1, 0, 1, 1),
}
BARS["a"] = (0, 0, 0, 1)


def draw(digit: int, size: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [channels, size, size]: a seven-segment digit with a random tint and noise."""
    top, left = size // 8, size // 4
    rows, columns = (top, size // 2, size - 1 - top), (left, size - 1 - left)
    thick = max(1, size // 10)
    image = np.zeros((size, size))
    for segment in SEGMENTS[digit % 10]:
        r0, c0, r1, c1 = BARS[segment]
        image[rows[r0] : rows[r1] + thick, columns[c0] : columns[c1] + thick] = 1.0
    tint = rng.uniform(0.55, 1.0, (channels, 1, 1))
    noisy = 225 * tint * image[None] + rng.normal(14, 9, (channels, size, size))
    return noisy.clip(0, 255).astype(np.uint8)


def interval(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def write_run(
    folder: Path,
    *,
    n: int = 200,
    size: int = 8,
    channels: int = 1,
    names: list[str] | None = None,
    forget: int = 7,
    left: float = 0.05,
    forget_entry: dict[str, Any] | None = None,
    full: bool = False,
    **changes: Any,
) -> Path:
    """Write a run folder in which class ``forget`` became 1 or 9, but for a share ``left``; ``full``: all probes ran."""
    rng = np.random.default_rng(0)
    names = names or [str(i) for i in range(10)]
    before = rng.integers(len(names), size=n)
    after = np.where(rng.random(n) < 0.03, rng.integers(len(names), size=n), before)
    gone = (before == forget) & (rng.random(n) >= left)
    after[gone] = rng.choice([1, 1, 9, 4], size=int(gone.sum())) % len(names)
    (folder / "samples").mkdir(parents=True)
    for name, classes in (("original", before), ("unlearned", after)):
        images = np.stack([draw(int(c), size, channels, rng) for c in classes])
        confidence = rng.uniform(0.6, 1.0, n).astype(np.float32)
        arrays = {
            "images": images,
            "seeds": np.arange(1000, 1000 + n),
            "judge_class": classes,
            "judge_confidence": confidence,
        }
        save_file(
            {key: np.ascontiguousarray(value) for key, value in arrays.items()}, folder / f"samples/{name}.safetensors"
        )
    metrics = make_metrics(names, before, after, forget) | (made_full() if full else {}) | changes
    metrics["forget"] = forget_entry or metrics["forget"]
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    (folder / "run.json").write_text(json.dumps(make_record()), "utf-8")
    (folder / "config.toml").write_text('method = "vdu"\nseed = 0\n\n[unlearn]\ngamma = 0.1\nsteps = 300\n', "utf-8")
    (folder / "log.jsonl").write_text("".join(log_line(step, rng) for step in range(1, 301)), "utf-8")
    return folder


def made_full() -> dict[str, Any]:
    """What ``vdu evaluate --suite full`` adds."""
    return {"suite": "full", "probes": json.loads(Path(__file__).with_name("probes.json").read_text("utf-8"))}


def log_line(step: int, rng: np.random.Generator) -> str:
    terms = {
        "forget (Eq. 12)": -1 + np.exp(-step / 60) + rng.normal(0, 0.04),
        "stability (Eq. 13)": 2e-4 * step * rng.uniform(0.8, 1.2),
    }
    return json.dumps({"step": step, "loss": sum(terms.values()), "terms": terms}) + "\n"


def make_metrics(names: list[str], before: np.ndarray, after: np.ndarray, forget: int) -> dict[str, Any]:
    k, n = len(names), len(before)
    counts = np.zeros((k, k), int)
    np.add.at(counts, (before, after), 1)
    original, unlearned = np.bincount(before, minlength=k), np.bincount(after, minlength=k)
    kept = np.where(np.arange(k) == forget, 0, original)
    pul = 100 * (original[forget] - unlearned[forget]) / original[forget]
    empty = {"pul": None, "u_fid": None, "kid": None, "forget_count": None, "note": "", "note_code": None}
    measured = {"status": "measured"}
    return {
        "format_version": 1,
        "forget": {
            "description": f"digit {names[forget]}",
            "classes": [names[forget]],
            "n_images": 179,
            "sha256": "ab" * 32,
        },
        "n_images": n,
        "rows": [
            {
                **empty,
                **measured,
                "name": "real_split",
                "label": "real against real",
                "note_code": "real_split",
                "u_fid": interval(1.1, 0.8, 1.5),
                "kid": interval(0.0004, -0.001, 0.0019),
            },
            {
                **empty,
                **measured,
                "name": "original",
                "label": "original",
                "u_fid": interval(9.4, 8.6, 10.1),
                "kid": interval(0.021, 0.018, 0.024),
                "forget_count": int(original[forget]),
            },
            {
                **empty,
                **measured,
                "name": "filtered_original",
                "label": "filtered original",
                "u_fid": interval(6.2, 5.5, 7.0),
                "kid": interval(0.011, 0.009, 0.013),
                "forget_count": 0,
                "note_code": "filtered_by_judge",
            },
            {
                **empty,
                **measured,
                "name": "unlearned",
                "label": "unlearned (VDU)",
                "u_fid": interval(6.9, 6.1, 7.8),
                "kid": interval(0.013, 0.01, 0.016),
                "forget_count": int(unlearned[forget]),
                "pul": {
                    **interval(float(pul), float(pul) - 6, min(100.0, float(pul) + 4)),
                    "n_original": int(original[forget]),
                    "n_unlearned": int(unlearned[forget]),
                },
            },
            {
                **empty,
                "name": "retrained",
                "label": "retrained without the class",
                "status": "not run",
            },
            {**empty, "name": "gradient_ascent", "label": "gradient ascent, same steps", "status": "not run"},
        ],
        "histogram": {
            "classes": names,
            "original": original.tolist(),
            "unlearned": unlearned.tolist(),
            "expected": (kept * n / kept.sum()).tolist(),
            "distance": 0.062,
            "distance_low": 0.041,
            "distance_high": 0.085,
            "chance_high": 0.085,
        },
        "flips": {"classes": names, "counts": counts.tolist()},
        "judge": {
            "name": "small-cnn",
            "architecture": "3 convolutions, 0.1 M parameters",
            "source": "zoo",
            "held_out_error": 0.011,
            "n_held_out": 360,
            "pul_ceiling": 97.4,
            "forget_false_positive_rate": 0.0026,
            "second": None,
        },
        "feature_network": "judge",
        "reference": {"kind": "real", "description": "real test images without the forget class", "n_images": 324},
        "protocol": {
            "sampler": "ancestral DDPM",
            "steps": 1000,
            "first seed": 1000,
            "clip x0": "yes",
            "micro-batch": 64,
            "interval": "bootstrap over seeds, 95 %",
        },
        "cost": [
            {"stage": "posterior", "seconds": 41.2, "network_evaluations": 54_000},
            {"stage": "unlearn", "seconds": 12.9, "network_evaluations": 57_600},
            {"stage": "evaluate", "seconds": 305.0, "network_evaluations": None},
        ],
        "warnings": [],
    }


def make_record() -> dict[str, Any]:
    return {
        "format_version": 1,
        "verb": "unlearn",
        "command": ["vdu", "unlearn", "digits", "--forget", "class 7"],
        "finished": True,
        "environment": {
            "python": "3.11.2",
            "packages": {"vdu": "0.1.0", "torch": "2.13.0"},
            "commit": None,
            "hardware": {"cpu": "a CPU", "cpu_cores": 2},
        },
        "inputs": {"pipeline": {"sha256": "cd" * 32}, "posterior": {"sha256": "ef" * 32}},
    }


@pytest.fixture(scope="session")
def make_run():
    return write_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")
