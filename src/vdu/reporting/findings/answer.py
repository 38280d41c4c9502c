"""What every finding has, a reason with its level, and an answer in sentences, as the page and ``evidence.json`` show it."""

from dataclasses import dataclass
from enum import Enum
from typing import Literal, Self

__all__ = ["Answer", "Level", "Reason"]

Level = Literal["good", "mixed", "bad", "unknown", "fact"]


class Reason(Enum):
    """Why an answer is what it is: a code for machines, the level, and the title in a few words.

    Args:
        code: unique among the reasons of one finding.
        level: "good", "mixed", "bad", "unknown" or, for a plain figure, "fact"; decides the colour and the sign.
        title: the answer in a few words.
    """

    def __init__(self, code: str, level: Level, title: str) -> None:
        self.code = code
        self.level: Level = level
        self.title = title


@dataclass(frozen=True)
class Answer:
    """An answer with its limits.

    Attributes:
        level: of the reason.
        code: of the reason.
        title: the answer in a few words.
        figure: its number, for the first screen.
        text: the numbers behind it, in a sentence or two.
        limits: what the answer cannot say, the most important first.
    """

    level: Level
    code: str
    title: str
    figure: str
    text: str
    limits: tuple[str, ...] = ()

    @classmethod
    def of(cls, reason: Reason, figure: str, text: str, limits: tuple[str, ...] = ()) -> Self:
        """The answer that a reason's own title gives."""
        return cls(reason.level, reason.code, reason.title, figure, text, limits)
