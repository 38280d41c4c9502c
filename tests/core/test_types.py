"""Batches as one batch."""

import pytest

from toys import noised, under_labels
from vdu.core.errors import InputError
from vdu.core.types import NoisedBatch


def test_conditions_are_joined_by_name_or_refused():
    batch = noised(2)
    joined = NoisedBatch.joined(under_labels(batch, 0, 1), under_labels(batch, 2, 2))
    assert joined.condition is not None and joined.condition["class_labels"].tolist() == [0, 1, 2, 2]
    assert NoisedBatch.joined(batch, batch).condition is None
    with pytest.raises(InputError, match=r"condition: got \['class_labels'\] and \[\]; expected the same names"):
        NoisedBatch.joined(under_labels(batch, 0, 1), batch)
