"""evidence.json: real output obeys the published schema, and a broken file does not."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

import vdu.report
from vdu.core.errors import InputError
from vdu.report.evidence import SCHEMA_ID, check_evidence, schema
from vdu.report.json_schema import violation
from vdu.report.render import render_report

ABSENT = object()


@pytest.fixture(scope="module", params=[False, True], ids=["no probes", "all probes"])
def written(request, make_run, tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("evidence") / "run", full=request.param)
    return json.loads(render_report(folder).with_name("evidence.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def full(make_run, tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("full") / "run", full=True)
    return json.loads(render_report(folder).with_name("evidence.json").read_text("utf-8"))


def test_what_was_written_obeys_the_published_schema(written):
    published = json.loads(Path(vdu.report.__file__).with_name("evidence.schema.json").read_text("utf-8"))
    assert published["$id"] == written["$schema"] == SCHEMA_ID
    assert violation(written, published) is None
    assert (written["approximate"], written["certified"]) == (True, False)


def test_the_full_validator_agrees(written, full):
    jsonschema = pytest.importorskip("jsonschema", reason="no jsonschema: pip install jsonschema")
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
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
    with pytest.raises(InputError, match=r"evidence\.json at /.*Make it again with `vdu report`"):
        check_evidence(broken(full, path, value))


def test_a_probe_that_gives_its_reason_is_welcome(full):
    check_evidence(broken(full, ("probes", "completion"), {"status": "not run", "reason": "no images"}))


def test_the_numbers_are_those_of_the_run(full, make_run, tmp_path):
    metrics = json.loads((make_run(tmp_path / "run", full=True) / "metrics.json").read_text("utf-8"))
    assert full["metrics"]["rows"] == metrics["rows"] and full["probes"] == metrics["probes"]
    assert full["metrics"]["histogram"] == metrics["histogram"] and full["cost"] == metrics["cost"]
    assert full["verdicts"]["back"]["answer"] == "Comes back no faster than in a retrained model (20% against 19%)"
    assert set(full["verdicts"]) == {"gone", "rest", "back", "cost", "trust"}


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        (3, {"maximum": 2}, "/: got 3, expected 2 or less"),
        ([1, "a"], {"items": {"type": "number"}}, "/1: got 'a'"),
        ({"a": {"b": None}}, {"additionalProperties": {"properties": {"b": {"type": "string"}}}}, "/a/b: got None"),
        (True, {"type": "integer"}, "/: got True, expected integer"),
        (1, {"const": True}, "/: got 1, expected True"),
        (float("nan"), {"type": "number"}, "/: got nan, expected number"),
        ("x", {"anyOf": [{"type": "null"}, {"type": "number"}]}, "fits none of 2 forms"),
        ({"b": 1}, {"$defs": {"d": {"required": ["a"]}}, "$ref": "#/$defs/d"}, "/: lacks a"),
    ],
)
def test_the_walker_names_the_place(value, rule, message):
    assert message in violation(value, rule)


def test_a_keyword_that_the_walker_does_not_know_is_not_passed_over():
    with pytest.raises(InputError, match="got the keyword 'oneOf'"):
        violation(1, {"oneOf": []})
    with pytest.raises(InputError, match=r"got \$ref '#/\$defs/no'"):
        violation(1, {"$ref": "#/$defs/no"})
