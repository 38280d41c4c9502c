"""Metrics: each a pure function and, where data come in parts, a thin accumulator; ``vdu.metrics.NAME`` imports at first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdu.metrics.frechet import FrechetDistance, frechet_distance, frechet_interval
    from vdu.metrics.histogram import expected_distribution, histogram_distance
    from vdu.metrics.kid import kernel_distance
    from vdu.metrics.precision import density_coverage, precision_recall
    from vdu.metrics.pul import corrected_pul, percentage_unlearned, pul_ceiling

_HOMES = {
    "percentage_unlearned": "pul",
    "corrected_pul": "pul",
    "pul_ceiling": "pul",
    "FrechetDistance": "frechet",
    "frechet_distance": "frechet",
    "frechet_interval": "frechet",
    "kernel_distance": "kid",
    "precision_recall": "precision",
    "density_coverage": "precision",
    "histogram_distance": "histogram",
    "expected_distribution": "histogram",
}

__all__ = [  # ruff: ignore[unsorted-dunder-all]  (grouped by question)
    # what is gone
    "percentage_unlearned", "corrected_pul", "pul_ceiling",
    # what happened to the rest
    "FrechetDistance", "frechet_distance", "frechet_interval", "kernel_distance", "precision_recall", "density_coverage",
    "histogram_distance", "expected_distribution",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vdu.metrics' has no attribute {name!r}")
    return getattr(import_module(f"vdu.metrics.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
