"""Five kills −9 at seeded random moments, one per verb; ``benchmarks/kills.py`` does a hundred."""

import json
import sys

import pytest

import killing as kills

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork, process groups and SIGKILL")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with kills.open_bench(tmp_path_factory.mktemp("kills") / "bench") as made:
        yield made


@pytest.mark.slow  # a minute; tests/test_bad_input.py kills one job
@pytest.mark.parametrize(
    ("verb", "seed"), [("pretrain", 112), ("posterior", 107), ("unlearn", 120), ("evaluate", 122), ("reproduce", 111)]
)
def test_killed_and_resumed_it_ends_with_the_bits_of_an_undisturbed_run(bench, verb, seed):
    trial = kills.run_trial(bench, verb, seed, kills=1)
    assert trial.faults == ()


def test_the_comparison_sees_a_changed_bit_a_leftover_and_a_torn_file(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.json").write_text(json.dumps({"value": 1, "seconds": 2.0}))
    truth = kills.content(out)
    (out / "a.json").write_text(json.dumps({"value": 1, "seconds": 3.0}))
    assert kills.faults(tmp_path, truth, kills.content(out)) == []  # times may differ
    (out / "a.json").write_text(json.dumps({"value": 1, "seconds": 2.0}))
    (out / "b.csv").write_text("pul,unlearn_seconds\n99.0,0.1\n")
    truth = kills.content(out)
    (out / "b.csv").write_text("pul,unlearn_seconds\n99.0,0.2\n")
    assert kills.faults(tmp_path, truth, kills.content(out)) == []
    (out / "b.csv").write_text("pul,unlearn_seconds\n98.0,0.1\n")
    assert kills.faults(tmp_path, truth, kills.content(out)) == ["b.csv: differs"]
    (out / "b.csv").write_text("pul,unlearn_seconds\n99.0,0.1\n")
    (out / "a.json").write_text(json.dumps({"value": 2, "seconds": 2.0}))
    assert kills.faults(tmp_path, truth, kills.content(out)) == ["a.json: differs"]
    (out / "a.json").write_text(json.dumps({"value": 1, "seconds": 2.0}))
    (out / ".pipeline.7.tmp").mkdir()
    (out / "c.safetensors").write_bytes(b"half")
    found = " ".join(kills.faults(tmp_path, truth, kills.content(out)))
    assert "out/.pipeline.7.tmp: a leftover of a writer" in found
    assert "c.safetensors: not in the undisturbed run" in found and "c.safetensors: damaged" in found
    (out / "a.json").unlink()
    assert "a.json: missing" in kills.faults(tmp_path, truth, kills.content(out))
