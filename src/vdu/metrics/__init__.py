"""One metric family per file: arrays in, numbers out. The names below are also found here, each imported at first use.

PUL, FrechetDistance (u-FID), KernelDistance           accumulators: ``update`` batch by batch, then ``compute``
percentage_unlearned, frechet_distance, frechet_interval, kernel_distance, precision_recall, density_coverage,
histogram_distance, expected_distribution, flip_table, pul_ceiling, corrected_pul                functions of whole sets
extract_features, classify                             a network's features and predictions of images
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdu.metrics.features import classify, extract_features
    from vdu.metrics.frechet import FrechetDistance, frechet_distance, frechet_interval
    from vdu.metrics.histogram import expected_distribution, histogram_distance
    from vdu.metrics.kid import KernelDistance, kernel_distance
    from vdu.metrics.precision import density_coverage, precision_recall
    from vdu.metrics.pul import PUL, corrected_pul, flip_table, percentage_unlearned, pul_ceiling

_HOMES = {
    "PUL": "pul",
    "FrechetDistance": "frechet",
    "KernelDistance": "kid",
    "percentage_unlearned": "pul",
    "frechet_distance": "frechet",
    "frechet_interval": "frechet",
    "kernel_distance": "kid",
    "precision_recall": "precision",
    "density_coverage": "precision",
    "histogram_distance": "histogram",
    "expected_distribution": "histogram",
    "flip_table": "pul",
    "pul_ceiling": "pul",
    "corrected_pul": "pul",
    "extract_features": "features",
    "classify": "features",
}

__all__ = [  # ruff: ignore[unsorted-dunder-all]  (grouped by purpose)
    "PUL", "FrechetDistance", "KernelDistance",
    "percentage_unlearned", "frechet_distance", "frechet_interval", "kernel_distance", "precision_recall", "density_coverage",
    "histogram_distance", "expected_distribution", "flip_table", "pul_ceiling", "corrected_pul",
    "extract_features", "classify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vdu.metrics' has no attribute {name!r}")
    return getattr(import_module(f"vdu.metrics.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
