"""Probes that an earlier evaluation in the same folder finished, and when they serve again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError
from vdu.core.processes import say
from vdu.core.records import read_json

__all__ = ["KeptProbes", "kept_probes"]


@dataclass(frozen=True)
class KeptProbes:
    """What earlier probes found with the same ``inputs``; by ``suite``, at the ``cost`` of that stage."""

    inputs: str
    suite: str
    probes: dict[str, Any]
    cost: dict[str, Any] | None


def kept_probes(folder: Path, suite: str, inputs: str) -> KeptProbes:
    """The probes that an earlier evaluation in the folder finished, of the same inputs and of the suite that is to run, if any.

    Args:
        folder: of the evidence.
        suite: the suite that is to run.
        inputs: SHA-256 of all that its probes depend on.

    Returns:
        Them; without any, none.

    Raises:
        InputError: if there are some of other inputs, and none are to run in their place.
    """
    path = folder / "metrics.json"
    old = read_json(path) if path.is_file() else None
    old = old if isinstance(old, dict) else {}
    probes, known = old.get("probes") or {}, str(old.get("suite"))
    done = [name for name, each in probes.items() if isinstance(each, dict) and each.get("status") == "measured"]
    same = old.get("probe_inputs") == inputs
    if done and same and suite in ("none", known):
        cost = next((each for each in old.get("cost", ()) if each.get("stage") == "probes"), None)
        found = probes if suite == "none" else {name: probes[name] for name in done}
        return KeptProbes(inputs, known, found, cost)
    if done and suite == "none":
        raise InputError(
            f"{path}: holds {len(done)} finished probes ({', '.join(done)}) of other models, images or settings, or of an earlier version, "
            f"which would be lost; expected --suite {known}, which measures them again. To evaluate without probes, move or delete the "
            "file."
        )
    if done:
        why = f"the suite {known}" if same else "other models, images or settings, or of an earlier version"
        say(f"vdu: warning: {path}: holds {len(done)} finished probes of {why}; the suite {suite} takes their place.")
    return KeptProbes(inputs, suite, {}, None)
