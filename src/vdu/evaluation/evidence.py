"""Evidence for a user of Python: the five answers, the key numbers, and the page.

The answers are those of the report (:mod:`vdu.reporting.findings`), read from the folder that the evaluation wrote.

Not guaranteed: certification of anything; the evidence is approximate, as the page says.
"""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from vdu.core.errors import InputError
from vdu.core.paths import given_file
from vdu.core.ranges import PERCENTAGE, require_number
from vdu.core.records import atomic_file, sha256_file
from vdu.evaluation.recording import Recorded
from vdu.evaluation.records import EvidenceRecord, Interval, KeptRecord, PULRecord
from vdu.reporting.collect import collect
from vdu.reporting.evidence_json import QUESTIONS
from vdu.reporting.findings.answer import Answer
from vdu.reporting.provenance import READ_FILES
from vdu.reporting.render import answers, render_report, require_evidence_name, require_page_name

__all__ = ["Evidence"]


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """What an evaluation found. The five answers have a ``level``, a ``title`` and a ``text``.

    The levels are "good", "mixed" (with reservations), "bad", "unknown" (the evidence does not decide) and "fact" (a figure without a
    verdict). ``vdu.reporting.findings`` has the rules.

    Attributes:
        folder: the folder with metrics.json and the samples.
        record: all numbers.
        gone: the answer to "Is it gone?".
        rest: the answer to "Is the rest intact?".
        back: the answer to "Does it come back?".
        cost: the answer to "What did it cost?".
        trust: the answer to "Can I trust this?".
        files: SHA-256 of the folder's files that the answers and the page are made from, by name.
    """

    folder: Path
    record: EvidenceRecord
    gone: Answer
    rest: Answer
    back: Answer
    cost: Answer
    trust: Answer
    files: Mapping[str, str]

    @classmethod
    def read(cls, found: Recorded, *, temporary: bool = False) -> "Evidence":
        """Read the answers of an evaluation.

        Args:
            found: the evaluation.
            temporary: remove its folder together with this object.

        Returns:
            The evidence.
        """
        folder = found.folder.resolve()  # the same one after a change of the working directory
        made = cls(folder, found.evidence, **answers(collect(folder)), files=_hashes(folder))
        if temporary:
            weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
        return made

    @property
    def pul(self) -> PULRecord:
        """Percentage of unlearning, in percent, with its 95 % interval (``value``, ``low``, ``high``) and counts."""
        return self.record.pul

    @property
    def u_fid(self) -> Interval:
        """u-FID of the unlearned model, ≥ 0, lower is better, with its 95 % interval.

        It is of all images, the unwanted ones that remain included. Where many do, ``kept_changed.apart`` has that of the others, which
        the answer :attr:`rest` reads.
        """
        distances = self.record.row("unlearned").distances
        assert distances is not None
        return distances.u_fid

    @property
    def kept_changed(self) -> KeptRecord:
        """How many retained images changed class: ``n_changed`` of ``n_kept``, ``share``, and the largest class shift."""
        return self.record.kept

    @property
    def answers(self) -> dict[str, Answer]:
        """The five answers by name, in the order of the report."""
        return {name: getattr(self, name) for name in QUESTIONS}

    def to_html(self, path: Path | str) -> Path:
        """Write the evidence report as one HTML file.

        Args:
            path: the file; an older one is replaced.

        Returns:
            The path. Evidence whose folder holds another evaluation by now, or lost a part, is refused with an ``InputError``.
        """
        return self._written("report.html", path)

    def to_json(self, path: Path | str) -> Path:
        """Write the evidence for machines (the form of ``evidence.json``).

        Args:
            path: the file; an older one is replaced.

        Returns:
            The path. Evidence whose folder holds another evaluation by now, or lost a part, is refused with an ``InputError``.
        """
        return self._written("evidence.json", path)

    def assert_gone(self, at_least: float = 80) -> None:
        """Fail unless enough is gone, for tests and continuous integration.

        Args:
            at_least: the smallest acceptable PUL (its value, not the lower end of its interval), in percent, 0 to 100.

        Raises:
            AssertionError: with the numbers, if PUL is lower.
            InputError: for anything but a percentage; a number between 0 and 1 is refused as a fraction.
        """
        require_number("at_least", at_least, PERCENTAGE)
        if 0 < at_least < 1:
            raise InputError(f"at_least: got {at_least:g}; expected percent. For a fraction write {100 * at_least:g}.")
        pul = self.pul
        if not pul.value >= at_least:
            raise AssertionError(
                f"PUL is {pul.value:.1f} % (95 % interval {pul.low:.1f} to {pul.high:.1f}); expected at least {at_least:g} %. "
                f"{pul.n_unlearned} of {pul.n_original} unwanted images are left among {pul.n_images} samples."
            )

    def __repr__(self) -> str:
        """The five answers, a line each."""
        lines = [f"{QUESTIONS[name]:<24}{each.level:<9}{each.title}" for name, each in self.answers.items()]
        return "\n".join([f"Evidence from {self.record.n_images} images of each model", *lines])

    def _repr_html_(self) -> str:
        """The five answers as a table, for a notebook."""
        rows = "".join(
            f"<tr><td>{escape(QUESTIONS[name])}</td><td>{escape(each.level)}</td><td><b>{escape(each.title)}</b><br>"
            f"{escape(each.figure)}</td></tr>"
            for name, each in self.answers.items()
        )
        return f"<table>{rows}</table>"

    def _written(self, name: str, path: Path | str) -> Path:
        """Make the page and its JSON, and keep one of the two."""
        path = given_file(path)
        if name.endswith(".html"):
            require_page_name(path, self.folder)
        else:
            require_evidence_name(path)
        self._require_current()
        with tempfile.TemporaryDirectory() as place:
            render_report(self.folder, output=Path(place) / "report.html")
            with atomic_file(path) as temporary:
                shutil.copyfile(Path(place) / name, temporary)
        return path

    def _require_current(self) -> None:
        """Raise an error if the folder no longer holds what this was read from."""
        changed = [name for name, sha256 in _hashes(self.folder).items() if sha256 != self.files[name]]
        if changed:
            raise InputError(
                f"evidence: is out of date: {self.folder} holds other files than it was read from ({', '.join(changed)}), as after another "
                "evaluation there. Use the evidence of that one, or evaluate again with a folder of its own."
            )


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a page is made from, by name; empty for a file that is not there."""
    paths = {name: folder / name for name in READ_FILES}
    return {name: sha256_file(path) if path.is_file() else "" for name, path in paths.items()}
