"""Whether a text names a concept, in whatever way both are written."""

import pytest

from vdu.core.naming import names, words


@pytest.mark.parametrize(
    ("text", "concept"),
    [
        ("a cat-like face", "cat"),
        ("cat\u2011face", "cat"),  # a hyphen that does not break
        ("a hot-dog", "hot dog"),
        ("a cat\u2019s eye", "cat's eye"),
        ("\u201ca cat\u201d", "cat."),
        ("a cat sits", ' "cat" '),
        ("c\u00adat", "cat"),  # soft hyphen
        ("cat\u200b sits", "cat"),
        ("\ufeffcat", "cat"),
        ("ＣＡＴ face", "cat"),
        ("STRASSE", "straße"),
        ("İstanbul", "istanbul"),
        ("cafe\u0301 table", "café"),
        ("ﬁsh", "fish"),
        ("猫の顔", "猫"),
        ("catの写真", "cat"),
        ("ﾈｺの写真", "ネコ"),
        ("고양이의 사진", "고양이"),
        ("รูปแมว", "แมว"),
        ("❤️ heart", "❤"),
        ("photo of <cat-toy>", "<cat-toy>"),
        ("two cats", "cat"),
        ("a cat", "cats"),
        ("two black cats", "black cat"),
        ("three boxes", "box"),
        ("horses", "horse"),
        ("cities", "city"),
        ("two princesses", "princess"),
    ],
)
def test_a_text_names_a_concept(text, concept):
    assert names(text, concept)


@pytest.mark.parametrize(
    ("text", "concept"),
    [
        ("a caterpillar", "cat"),
        ("black and cat", "black cat"),
        ("a glass", "glas s"),
        ("a cafe", "café"),
        ("x\u0304", "x"),  # a letter with a bar
        ("as is", "a cat"),
        ("a cat", "..."),
        ("bu", "bus"),
        ("two princes", "princess"),
        ("a brass lamp", "bras"),
        ("good news", "new"),
        ("犬の顔", "猫"),
    ],
)
def test_a_text_does_not_name_a_concept(text, concept):
    assert not names(text, concept)


def test_the_plural_may_count_as_another_word():
    assert names("two cats", "cats", plural=False) and not names("two cats", "cat", plural=False)
    assert words("\u200b.") == ()
