"""``vdu.metrics`` is a namespace of its files, and light."""

import subprocess
import sys

import pytest

from vdu import metrics


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_name_is_found_and_documented(name):
    found = getattr(metrics, name)
    assert found.__name__ == name and found.__module__.startswith("vdu.metrics.") and found.__doc__
    assert name in dir(metrics)


@pytest.mark.slow
def test_the_namespace_imports_at_first_use():
    program = "import sys, vdu.metrics; print('torch' in sys.modules); vdu.metrics.PUL; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metrics.nothing  # ruff: ignore[useless-expression]
