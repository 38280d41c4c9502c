"""The records: the published schema is that of the types, real output obeys it, and a broken file does not.

Write the schema anew with ``python tests/reporting/test_records.py``.
"""

import json
from copy import deepcopy
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, TypedDict, Union, get_args, get_origin, is_typeddict

import pytest

import vdu.reporting
from vdu.core.errors import InputError
from vdu.core.typed_json import AtLeast, AtMost, Pattern, closed, hints, is_closed, problem, unpacked
from vdu.reporting.records import SCHEMA_ID, Evidence, check_evidence
from vdu.reporting.render import render_report

PUBLISHED = Path(vdu.reporting.__file__).with_name("evidence.schema.json")
ABOUT = (
    "What one unlearning reached, measured, with limits and provenance. PUL and ceilings in percent; error rates and "
    "fractions in [0, 1]; intervals 95 %. Approximate, never certified."
)
ABSENT = object()


def written_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of ``Evidence``; every other class inside it stands under ``$defs``."""
    found: dict[str, Any] = {}
    root = object_schema(Evidence, found)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, "title": "vdu evidence report"}
    return head | root | {"description": ABOUT, "$defs": dict(sorted(found.items()))}


def object_schema(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    keys = hints(kind)
    made: dict[str, Any] = {"description": kind.__doc__.strip()} if kind.__doc__ else {}
    made |= {"type": "object", "required": [key for key in keys if key in kind.__required_keys__]}
    made["properties"] = {key: schema_of(each, found) for key, each in keys.items()}
    return made | ({"additionalProperties": False} if is_closed(kind) else {})


def schema_of(kind: Any, found: dict[str, Any]) -> dict[str, Any]:
    kind, limits = unpacked(kind)
    origin = get_origin(kind)
    if kind is Any:
        return {}
    if origin in {Union, UnionType}:
        return {"anyOf": [schema_of(each, found) for each in get_args(kind)]}
    if origin is Literal:
        return {"enum": list(get_args(kind))}
    if origin is list:
        items = {"type": "array", "items": schema_of(get_args(kind)[0], found)}
        return items | ({"minItems": limits[0].value} if limits else {})
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(get_args(kind)[1], found)}
    if is_typeddict(kind):
        if kind.__name__ not in found:
            found[kind.__name__] = object_schema(kind, found)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    names = {AtLeast: "minimum", AtMost: "maximum", Pattern: "pattern"}
    plain = {str: "string", int: "integer", float: "number", NoneType: "null"}[kind]
    return {"type": plain, **{names[type(each)]: each.value for each in limits}}


def a_line_each(schema: dict[str, Any]) -> str:
    """The schema as JSON with a line for each property and each definition."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False)

    parts = []
    for key, value in schema.items():
        inside = (
            ",\n".join(f"  {text(name)}: {text(each)}" for name, each in value.items())
            if isinstance(value, dict)
            else ""
        )
        parts.append(f" {text(key)}: " + (f"{{\n{inside}\n }}" if inside else text(value)))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def test_the_published_schema_is_that_of_the_types():
    assert json.loads(PUBLISHED.read_text("utf-8")) == written_schema()


@pytest.fixture(scope="module", params=[False, True], ids=["no probes", "all probes"])
def written(request, make_run, tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("evidence") / "run", full=request.param)
    return json.loads(render_report(folder).with_name("evidence.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def full(make_run, tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("full") / "run", full=True)
    return json.loads(render_report(folder).with_name("evidence.json").read_text("utf-8"))


def test_what_was_written_obeys_the_types(written):
    assert written["$schema"] == SCHEMA_ID and problem(written, Evidence) is None
    assert (written["approximate"], written["certified"]) == (True, False)


def test_the_full_validator_agrees(written, full):
    jsonschema = pytest.importorskip("jsonschema", reason="no jsonschema: pip install jsonschema")
    validator = jsonschema.Draft202012Validator(written_schema())
    validator.check_schema(written_schema())
    validator.validate(written)
    for path, value in BROKEN:
        assert not validator.is_valid(broken(full, path, value)), path


BROKEN = [
    (("$schema",), "urn:other"),
    (("certified",), True),
    (("approximate",), 1),
    (("verdicts", "gone"), ABSENT),
    (("verdicts", "gone", "level"), "green"),
    (("verdicts", "rest", "limits"), "none"),
    (("extra",), 1),
    (("forget", "n_images"), -1),
    (("forget", "n_images"), 2.5),
    (("not_tested",), []),
    (("metrics", "rows"), []),
    (("metrics", "rows", 0, "u_fid"), ABSENT),
    (("metrics", "rows", 0, "u_fid", "low"), "1"),
    (("metrics", "judge", "held_out_error"), 1.5),
    (("metrics", "n_images"), True),
    (("probes", "relearning", "status"), "skipped"),
    (("probes", "relearning", "curves", 0, "shown"), "nothing"),
    (("probes", "relearning", "curves", 0, "points", 1, "n_images"), 0),
    (("probes", "membership", "rows", 0, "auc", "value"), 1.2),
    (("probes", "likelihood", "rows", 0, "monte_carlo_error"), ABSENT),
    (("probes", "completion"), {"status": "not run"}),
    (("metrics", "judge", "source"), "trained on the spot"),
    (("verdicts", "gone", "code"), ABSENT),
    (("cost", 0, "seconds"), -1),
    (("provenance", "files", "metrics.json"), "ab"),
]


def broken(value, path, new):
    changed = deepcopy(value)
    place = changed
    for key in path[:-1]:
        place = place[key]
    if new is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return changed


@pytest.mark.parametrize(("path", "value"), BROKEN, ids=lambda x: "/".join(map(str, x)) if isinstance(x, tuple) else "")
def test_a_broken_file_is_refused(full, path, value):
    with pytest.raises(InputError, match=r"evidence\.json: .*Make it again with `vdu report`"):
        check_evidence(broken(full, path, value))


def test_a_probe_that_gives_its_code_is_welcome(full):
    check_evidence(broken(full, ("probes", "completion"), {"status": "not run", "code": "too_few_images"}))


def test_the_numbers_are_those_of_the_run(full, make_run, tmp_path):
    metrics = json.loads((make_run(tmp_path / "run", full=True) / "metrics.json").read_text("utf-8"))
    without_notes = [[row | {"note": ""} for row in rows] for rows in (full["metrics"]["rows"], metrics["rows"])]
    assert without_notes[0] == without_notes[1]
    assert full["probes"]["relearning"]["curves"] == metrics["probes"]["relearning"]["curves"]
    assert full["metrics"]["histogram"] == metrics["histogram"] and full["cost"] == metrics["cost"]
    assert (full["verdicts"]["back"]["level"], full["verdicts"]["back"]["code"]) == ("fact", "no_faster")
    assert set(full["verdicts"]) == {"gone", "rest", "back", "cost", "trust"}


@closed
class Small(TypedDict):
    a: int
    b: NotRequired[list[float | None]]
    c: NotRequired[Literal[True]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1, "b": [0, 1.5, None]}, None),
        ({}, "a is missing"),
        ({"a": True}, "a is True, expected a whole number"),
        ({"a": 1, "b": [1, "x"]}, r"b[1] is 'x', expected a finite number"),
        ({"a": 1, "b": [float("nan")]}, "b[0] is nan, expected a finite number"),
        ({"a": 1, "c": 1}, "c is 1, expected one of True"),
        ({"a": 1, "d": 1}, "d is not known, expected only a, b, c"),
        ([], "the file is [], expected an object"),
    ],
)
def test_the_first_wrong_place_is_named(value, message):
    assert problem(value, Small) == message


if __name__ == "__main__":
    PUBLISHED.write_text(a_line_each(written_schema()), "utf-8")
