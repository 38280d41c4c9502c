"""``vdu verify``: recomputes every hash that a report prints, and compares.

What is checked, against ``run.json``, ``metrics.json`` and ``evidence.json``: the forget set where its source is still there, the
original, the unlearned and the retrained model with their configurations, the posterior, the files that the report was made from,
and the page itself.

Not guaranteed: that the records are genuine. Whoever can change a model can change the hash beside it; keep a copy of
``evidence.json``, or of its hash, elsewhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from vdu.commands.options import GivenFirst
from vdu.core.errors import InputError
from vdu.core.paths import given_path

__all__ = ["Checked", "VerifySettings", "run", "verify"]

DIFFERS = 3  # exit code


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """Recompute the hashes of a run's report and compare; exit code 3 if one differs.

    Attributes:
        run: the run folder, after "vdu report".
    """

    run: Annotated[Path, GivenFirst] = Path()


@dataclass(frozen=True)
class Checked:
    """A hash that was recomputed.

    Attributes:
        item: what was hashed.
        answer: "matches", "differs" or "not available".
        detail: both hashes where they differ, or why the item is not available.
    """

    item: str
    answer: Literal["matches", "differs", "not available"]
    detail: str = ""

    def __str__(self) -> str:
        return self.answer + (f" ({self.detail})" if self.detail else "")


def run(settings: VerifySettings) -> dict[str, Any]:
    """Verify a run.

    Args:
        settings: see :class:`VerifySettings`.

    Returns:
        An answer for each item, and ``exit_code`` 3 if one differs.
    """
    found = verify(settings.run)
    differs = any(each.answer == "differs" for each in found)
    return {each.item: str(each) for each in found} | ({"exit_code": DIFFERS} if differs else {})


def verify(folder: Path | str) -> tuple[Checked, ...]:
    """Recompute the hashes of a run's report.

    Args:
        folder: the run folder.

    Returns:
        What was checked, models first.

    Raises:
        InputError: if the folder holds no run of ``vdu unlearn``.
    """
    from vdu.core.records import read_json

    folder = given_path(folder, "folder")
    record = read_json(folder / "run.json")
    if not isinstance(record, dict) or record.get("verb") != "unlearn":
        raise InputError(f"{folder}: run.json is not of a run of 'unlearn'. Give the --output-dir of vdu unlearn.")
    optional = {name: _optional(folder / name) for name in ("metrics.json", "evidence.json")}
    protocol = optional["metrics.json"].get("protocol") or {}
    return (
        *_models(folder, record, protocol),
        _checked("forget set", record["inputs"]["forget"]["sha256"], lambda: _forget_hash(folder, record)),
        *_files(folder, optional["evidence.json"].get("provenance") or {}),
    )


def _optional(path: Path) -> dict[str, Any]:
    from vdu.core.records import read_json

    return read_json(path) if path.is_file() else {}


def _checked(item: str, expected: str | None, compute: Callable[[], str]) -> Checked:
    """Compare; what cannot be read is not available."""
    if expected is None:
        return Checked(item, "not available", "the run recorded no hash")
    try:
        got = compute()
    except (InputError, OSError) as error:
        return Checked(item, "not available", str(error))
    return Checked(item, "matches") if got == expected else Checked(item, "differs", f"recorded {expected}, now {got}")


def _models(folder: Path, record: dict[str, Any], protocol: dict[str, Any]) -> Iterator[Checked]:
    inputs = record["inputs"]
    places = {
        "original model": (inputs["model"].get("path"), inputs["model"]),
        "unlearned model": (folder / "pipeline", record.get("pipeline") or {}),
        "retrained model": (protocol.get("retrained_path"), {"sha256": protocol.get("retrained_sha256")}),
    }
    for item, (path, recorded) in places.items():
        if item == "retrained model" and recorded["sha256"] is None:
            continue
        yield _checked(item, recorded.get("sha256"), lambda path=path: _weights(path))
        if "configuration_sha256" in recorded:
            yield _checked(
                f"{item}, configuration", recorded["configuration_sha256"], lambda path=path: _configuration(path)
            )
    posterior = inputs.get("posterior")
    if posterior:
        yield _checked("posterior", posterior.get("sha256"), lambda: _posterior(posterior["path"]))


def _pipeline(path: Path | str | None) -> Any:
    from vdu.models.pipelines import load_pipeline

    if path is None:
        raise InputError("the run did not record where it is")
    return load_pipeline(Path(path))


def _weights(path: Path | str | None) -> str:
    from vdu.core.checks import hash_parameters
    from vdu.models.pipelines import network_of

    return hash_parameters(network_of(_pipeline(path)).state_dict())


def _configuration(path: Path | str | None) -> str:
    from vdu.models.pipelines import configuration_of

    return configuration_of(_pipeline(path))


def _posterior(path: str) -> str:
    from vdu.commands.posterior import load_posterior

    return load_posterior(Path(path)).sha256


def _forget_hash(folder: Path, record: dict[str, Any]) -> str:
    """The hash of the forget set as it is now, from its own source."""
    from vdu.data.forget_source import current_forget
    from vdu.models.denoiser import PipelineDenoiser

    shape = PipelineDenoiser.from_pipeline(_pipeline(folder / "pipeline")).image_shape
    return current_forget(folder, shape).sha256


def _files(folder: Path, provenance: dict[str, Any]) -> Iterator[Checked]:
    from vdu.core.records import sha256_file

    recorded = dict(provenance.get("files") or {})
    if not recorded:
        yield Checked("files of the report", "not available", "there is no evidence.json; run `vdu report`")
    if "page" in provenance:
        recorded["report.html"] = provenance["page"]
    for name, expected in recorded.items():
        yield _checked(name, expected, lambda name=name: sha256_file(folder / name))
