"""The table of posterior estimators."""

from dataclasses import fields
from typing import Any

from vdu.core.errors import InputError
from vdu.core.ranges import require_choice
from vdu.posterior.amnesia_fisher import AmnesiaFisher
from vdu.posterior.ensemble import Ensemble, FinetunedEnsemble
from vdu.posterior.fisher import Fisher
from vdu.posterior.isotropic import Isotropic
from vdu.posterior.protocol import Estimator

__all__ = ["ESTIMATORS", "find_estimator", "make_estimator"]

ESTIMATORS: dict[str, Any] = {
    estimator.name: estimator for estimator in (Fisher, Ensemble, FinetunedEnsemble, Isotropic, AmnesiaFisher)
}


def find_estimator(name: str) -> Any:
    """The class of that name.

    Args:
        name: for example ``"fisher"``.

    Returns:
        The class. An unknown name raises an ``InputError``.
    """
    require_choice("estimator", name, ESTIMATORS)
    return ESTIMATORS[name]


def make_estimator(name: str, **options: Any) -> Estimator:
    """An estimator by its name.

    Args:
        name: for example ``"fisher"``.
        **options: its settings.

    Returns:
        The estimator.

    Raises:
        InputError: if the name or an option is unknown, or an option is out of its range.
    """
    estimator = find_estimator(name)
    known = [item.name for item in fields(estimator)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"{name}: has no option {', '.join(unknown)}; expected some of {', '.join(known)}.")
    return estimator(**options)
