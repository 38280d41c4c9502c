"""What a user means by a class, against a list of the cases and a search through all names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdu.core.class_names import class_index, class_key
from vdu.core.errors import InputError


@pytest.mark.parametrize(
    ("wanted", "names", "place"),
    [
        (1, ("01", "02", "03"), 0),
        ("1", ("01", "02", "03"), 0),
        ("1", ("1", "10", "2"), 0),
        (10, ("1", "10", "2"), 1),
        ("2", ("10", "02", "cat"), 1),
        ("01", ("1", "01"), 1),  # the text of a name comes first
        (2, ("cat", "dog", "frog"), 2),  # CIFAR-10: names without digits, so a place in the list
        ("2", ("cat", "dog", "frog"), 2),
        (0, ("0",), 0),
        ("000", ("0",), 0),
        (2, ("cat", "dog", "frog", "K9"), 2),  # another name's number is another one
        (1, ("class_0", "class_1", "class_2"), 1),
        ("caf\u00e9", ("bar", "cafe\u0301"), 1),  # the same name as a file system of macOS writes it
        ("cafe\u0301", ("bar", "caf\u00e9"), 1),
    ],
)
def test_a_name_then_a_value_then_a_place(wanted, names, place):
    assert class_index(wanted, names) == place


@pytest.mark.parametrize(
    ("wanted", "names", "message"),
    [
        (1, ("class_1", "class_10", "class_2"), r"class 1: unknown; the classes are: class_1, class_10, class_2\."),
        (0, ("class_1", "class_10", "class_2"), r"class 0: unknown"),
        (2, ("K9", "dog", "frog", "R2"), r"class 2: unknown"),
        ("0", ("01", "02"), r"class '0': unknown; the classes are: 01, 02\."),
        (1, ("1", "01"), r"class 1: means 1 and 01; expected the name of one class, as text"),
        (3, ("cat", "dog"), r"class 3: unknown; the classes are: 0 = cat, 1 = dog\."),
        ("9" * 5000, ("cat", "dog"), r"unknown; the classes are"),
        (-1, ("cat", "dog"), r"class -1: unknown"),
        (True, ("cat", "dog"), r"class: got True; expected the name or the number"),
        (None, ("cat", "dog"), r"class: got None"),
        ("Cat", ("cat", "dog"), r"Did you mean 'cat'\?"),
    ],
)
def test_nothing_else_is_guessed(wanted, names, message):
    with pytest.raises(InputError, match=message):
        class_index(wanted, names)


NAMES = st.lists(
    st.one_of(st.integers(0, 12).map(str), st.integers(0, 12).map("{:02}".format), st.text("ab_12", min_size=1, max_size=2)),
    min_size=1, max_size=6, unique=True,
)  # fmt: skip


@given(names=NAMES, number=st.integers(-1, 13))
def test_a_number_never_means_a_class_of_another_value(names, number):
    """Whatever the order of the folders: the class has the value, or is at the place and no name has a number that says otherwise."""
    try:
        place = class_index(number, names)
    except InputError:
        return
    if not (names[place].isdigit() and int(names[place]) == number):
        numbers = [{int(each) for each in re.findall(r"\d+", name)} for name in names]
        assert place == number and numbers.pop(place) <= {number} and number not in set().union(*numbers)


@given(names=NAMES, data=st.data())
def test_every_name_means_itself(names, data):
    name = data.draw(st.sampled_from(names))
    assert names[class_index(name, names)] == name


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("8", "08", True), ("\uff18", "008", True), ("0", "000", True), ("8", "80", False), ("class 8", "class 08", False),
        ("Sea-Lion", "sea lion", True), ("lion", "sea lion", False), ("...", "...", True), ("...", "!", False),
    ],
)  # fmt: skip
def test_what_names_of_one_class_share(one, other, same):
    assert (class_key(one) == class_key(other)) is same
