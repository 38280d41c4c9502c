"""Whether a text names a concept: one way to compare what people write. Standard library only.

Texts are compared as words: in one form of Unicode (NFKC), in lower case, without marks that cannot be seen, and with a space for every
dash, quote and other punctuation. A character of a script without spaces (猫) and a symbol (❤) are words of their own. A concept of
several words is named where they follow one another. Its last word may be an English plural where the text has the singular, and
the other way round.

Not guaranteed: that a text without the word does not mean the concept ("kitten"); that a script without spaces is cut where its words are
(河马, hippopotamus, names 马, horse); plurals that do not end in s.
"""

import re
from unicodedata import category, normalize

__all__ = ["names", "words"]

_SPACELESS = re.compile(  # Thai to Lao, Myanmar, Khmer, kana, Han, Hangul
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]"
)
_UNSEEN = re.compile(r"[\u034f\u115f\u1160\u3164\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # besides the category "format"
_PLURALS = ((r"ies$", "y"), (r"(s|x|z|o|ch|sh)es$", r"\1"), (r"(?<!s)s$", ""))
_SINGULAR = {"news"}  # with the s of a plural


def words(text: str) -> tuple[str, ...]:
    """The words of a text, in the form in which they are compared.

    Args:
        text: any.

    Returns:
        Its words; none if it has punctuation alone.

    Examples:
        >>> words("“Black_Cat’s” eye"), words("猫の顔"), words("STRASSE") == words("straße"), words("...")
        (('black', 'cat', 's', 'eye'), ('猫', 'の', '顔'), True, ())
    """
    plain = normalize("NFKC", normalize("NFKC", text).casefold()).replace("i\u0307", "i")  # of the Turkish İ
    return tuple("".join(map(_spaced, plain)).split())


def names(text: str, concept: str, *, plural: bool = True) -> bool:
    """Whether a text names a concept.

    Args:
        text: a prompt, for example.
        concept: a word or phrase.
        plural: whether the plural counts as the singular.

    Returns:
        Whether it does.

    Examples:
        >>> names("Cat face, noto style", "cat"), names("a caterpillar", "cat"), names("black_cat", "black  cat."), names("two cats", "cat")
        (True, False, True, True)
    """
    wanted, found = words(concept), words(text)
    n = len(wanted)
    parts = (found[i : i + n] for i in range(len(found) - n + 1)) if n else ()
    return any(
        part == wanted or (plural and part[:-1] == wanted[:-1] and _one_word(part[-1], wanted[-1])) for part in parts
    )


def _spaced(character: str) -> str:
    kind = category(character)
    if kind == "Cf" or _UNSEEN.match(character):
        return ""
    if kind[0] == "S" or _SPACELESS.match(character):
        return f" {character} "
    return character if kind[0] in "LMN" else " "


def _one_word(one: str, other: str) -> bool:
    """Whether one word may be the plural of the other."""
    return one in _singulars(other) or other in _singulars(one)


def _singulars(word: str) -> set[str]:
    """What a word may be the plural of."""
    return {re.sub(end, new, word) for end, new in _PLURALS} if len(word) > 3 and word not in _SINGULAR else set()
