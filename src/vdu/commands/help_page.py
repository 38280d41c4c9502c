"""The help pages: which options of a verb a reader sees first, in which group each option is, and how a page looks.

``vdu COMMAND --help`` shows the arguments and the options of :data:`COMMON`; ``--help-all`` shows all, by group.
"""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["COMMON", "FOOT", "GROUPS", "USAGE", "HelpPage", "group_of"]

USAGE: Mapping[str, str] = {
    "compare": "vdu compare RUN RUN [RUN …]",
    "demo": "vdu demo [-o vdu-demo]",
    "evaluate": "vdu evaluate RUN, or vdu evaluate --before MODEL --after MODEL --forget IMAGES [-o evidence]",
    "explore": "vdu explore RUN [RUN …]",
    "import": "vdu import ARCHITECTURE CHECKPOINT OUTPUT_DIR",
    "judge": "vdu judge DATA [-o judge]",
    "list": "vdu list [METHOD]",
    "posterior": "vdu posterior ESTIMATOR MODEL [-o posterior]",
    "pretrain": "vdu pretrain DATA [-o model]",
    "report": "vdu report RUN",
    "reproduce": "vdu reproduce TABLE",
    "sample": "vdu sample MODEL [-o samples]",
    "unlearn": "vdu unlearn MODEL IMAGES [-o run]",
    "verify": "vdu verify RUN",
}
"""How each verb is called."""

COMMON: Mapping[str, tuple[str, ...]] = {
    "compare": ("output", "force"),
    "demo": ("output-dir", "digit", "full", "n-images", "suite", "seed", "overwrite"),
    "evaluate": (
        "before", "after", "forget", "output-dir", "judge", "reference", "retrained", "data", "forget-class", "suite", "n-images",
        "n-judge-samples",
    ),
    "explore": ("port", "host", "browser"),
    "import": ("schedule", "diffusion-steps"),
    "judge": ("output-dir", "architecture", "epochs", "name", "seed", "overwrite", "resume-from-checkpoint"),
    "list": (),
    "posterior": (
        "output-dir", "n-train", "members", "data", "n-samples", "calibrate", "mean", "train", "seed", "overwrite",
        "resume-from-checkpoint",
    ),
    "pretrain": (
        "output-dir", "labels", "without", "from-pipeline", "steps", "batch-size", "learning-rate", "seed", "overwrite",
        "resume-from-checkpoint",
    ),
    "report": ("output", "by", "hide-forgotten"),
    "reproduce": ("scale", "output-dir", "list-cells", "only-done"),
    "sample": ("output-dir", "n-images", "label", "inference-steps", "seed", "overwrite"),
    "verify": (),
    "unlearn": (
        "output-dir", "forget-class", "forget-label", "forget-prompt", "method", "option", "retain", "train", "steps", "seed",
        "overwrite", "resume-from-checkpoint",
    ),
}  # fmt: skip
"""The options that the first help page of a verb shows, in this order; all others are in :data:`GROUPS`, or in "Further"."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Training": (
        "steps", "batch-size", "learning-rate", "lr-schedule", "warmup-steps", "ema-decay", "max-grad-norm", "weight-decay",
        "shift-pixels", "epochs", "gradient-accumulation-steps", "mixed-precision", "compile", "full-length", "model", "members",
    ),
    "Sampling": ("scheduler", "inference-steps", "eta", "microbatch-size", "guidance-scale", "n-own-samples", "n-judge-samples"),
    "Output": ("checkpointing-steps", "checkpoints-total-limit", "resume-from-checkpoint", "overwrite", "report-to", "name"),
    "Global": ("device", "json", "dry-run"),
}  # fmt: skip
"""The groups of the options that are not common."""

FOOT = """Start with vdu demo. Then, with a model and images of your own:
  vdu unlearn my-ddpm unwanted/ -o run
  vdu evaluate run

vdu COMMAND --help shows the options of a command, vdu --version the version."""

_ARGUMENTS = {"PIPELINE": "MODEL", "FORGET": "IMAGES", "RUNS": "RUN"}
_VALUES = {"STR": "TEXT", "CHOICE": "NAME"}
_GLOBAL = (
    ("--config FILE", "a TOML file with settings of this command; --dry-run writes one"),
    ("--help-all", "show all options"),
)
_HIDDEN_DEFAULTS = {None, "False", "()", '""', "None", ".", "[]"}


def group_of(verb: str, option: str) -> str:
    """The group of an option on the help page of a verb.

    Args:
        verb: for example "unlearn".
        option: without dashes before it, for example "batch-size".

    Returns:
        "Common", a key of :data:`GROUPS`, or "Further".
    """
    if option in COMMON[verb]:
        return "Common"
    return next((name for name, options in GROUPS.items() if option in options), "Further")


class HelpPage:
    """A formatter for cyclopts: plain text in two columns.

    Attributes:
        everything: show all groups.
    """

    def __init__(self) -> None:
        self.everything = False
        self._verb = ""

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """Print how the verb is called, and remember which it is."""
        words = str(usage).removeprefix("Usage: ").strip()
        self._verb = next((verb for verb, text in USAGE.items() if text == words), "")
        _print(console, f"Usage: {words}\n")

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Print what the verb does."""
        _print(console, f"{_text(description)}\n")

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        """Print the verbs, or the arguments and options of one."""
        if panel.format == "command":
            verbs = [(entry.positive_names[0], _text(entry.description)) for entry in panel.entries]
            verbs = [row for row in verbs if not row[0].startswith("-")]
            self._section(console, str(panel.title), verbs, 12)
            return
        sections = {name: [] for name in ("Arguments", "Common", *list(GROUPS)[:-1], "Further", "Global")}
        for entry in sorted(panel.entries, key=self._place):
            name = entry.positive_names[0].removeprefix("--")
            group = "Arguments" if entry.positional_label else group_of(self._verb, name)
            sections[group].append((_label(entry), _described(entry)))
        if self._verb != "list":
            sections["Global"] += _GLOBAL
        hidden = sum(len(rows) for name, rows in sections.items() if name not in {"Arguments", "Common", "Global"})
        for title, rows in sections.items():
            if self.everything or title in {"Arguments", "Common", "Global"}:
                self._section(console, title, rows, 30)
        if hidden and not self.everything:
            _print(console, f"{hidden} more options, for training, sampling and output: vdu {self._verb} --help-all")

    def _place(self, entry: Any) -> tuple[bool, int]:
        """Required options first, then in the order of the common ones."""
        name, common = entry.positive_names[0].removeprefix("--"), COMMON.get(self._verb, ())
        return not entry.required, common.index(name) if name in common else len(common)

    @staticmethod
    def _section(console: Any, title: str, rows: Iterable[tuple[str, str]], width: int) -> None:
        import textwrap

        rows = list(rows)
        if not rows:
            return
        lines = [title]
        for label, text in rows:
            parts = textwrap.wrap(text, max(30, console.width - width - 3), break_on_hyphens=False) or [""]
            if len(label) > width - 2:
                lines.append(f"  {label}")
                label = ""
            lines.append(f"  {label:<{width}}{parts[0]}".rstrip())
            lines += [" " * (width + 2) + part for part in parts[1:]]
        _print(console, "\n".join(lines) + "\n")


def _print(console: Any, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _text(value: Any) -> str:
    """A text without markup, whatever holds it."""
    plain = getattr(value, "plain", None)
    found = plain if isinstance(plain, str) else str(getattr(value, "primary_renderable", value) or "")
    return found.strip()


def _label(entry: Any) -> str:
    """For example "MODEL, --pipeline" or "-o, --output-dir PATH"."""
    names: list[str] = [*entry.positive_shorts, *entry.positive_names]
    label: str = entry.positional_label or ""
    if label:
        return ", ".join([_ARGUMENTS.get(label, label), *names])
    value = (entry.metavar or "").rstrip(".")
    return " ".join([", ".join(names), _VALUES.get(value, value)]).rstrip()


def _described(entry: Any) -> str:
    """The help text, with the choices that it does not name, and a default that says something."""
    text = _text(entry.description)
    notes = [] if not entry.choices or all(each in text for each in entry.choices) else [", ".join(entry.choices)]
    notes += [] if entry.default in _HIDDEN_DEFAULTS else [f"default {entry.default}"]
    notes += ["required"] if entry.required else []
    return f"{text} [{'; '.join(notes)}]" if notes else text
