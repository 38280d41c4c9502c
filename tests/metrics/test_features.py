import pytest
import torch
from torch import nn

from vdu.core.errors import InputError
from vdu.data.images import ImageSet, to_float
from vdu.metrics import features
from vdu.metrics.features import Predictions, as_features, classify, extract_features, require_same_dimension


def images(n=10, seed=0):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))


def test_features_are_those_of_the_network_in_evaluation_mode():
    net = network().eval()
    torch.testing.assert_close(extract_features(net, images(), batch_size=4), net(images()).detach().double())


def test_modes_are_put_back_and_statistics_are_not_touched():
    net = network()
    net[2].eval()  # a frozen part stays frozen
    before = {name: value.clone() for name, value in net.state_dict().items()}
    extract_features(net, images())
    assert [module.training for module in net] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_modes_are_put_back_when_the_network_fails():
    net = network()
    with pytest.raises(RuntimeError, match="shapes"):
        extract_features(net, torch.zeros(2, 1, 3, 3))
    assert net.training


def test_every_batch_has_the_same_size_and_padding_leaves_no_trace():
    sizes = []

    def net(batch):
        sizes.append(len(batch))
        assert not torch.is_grad_enabled()
        return batch.flatten(1) * 2

    found = extract_features(net, images(10), batch_size=4)
    assert sizes == [4, 4, 4]
    assert found.dtype == torch.float64
    assert torch.equal(found, images(10).flatten(1).double() * 2)


def test_a_network_may_fill_one_buffer_again():
    buffer = torch.zeros(4, 16, dtype=torch.float64)
    found = extract_features(lambda batch: buffer.copy_(batch.flatten(1)), images(10), batch_size=4)
    assert torch.equal(found, images(10).flatten(1).double())


def test_an_image_has_the_same_features_in_any_company():
    net = network()
    assert torch.equal(
        extract_features(net, images(10), batch_size=4)[:5], extract_features(net, images(10)[:5], batch_size=4)
    )


@pytest.mark.parametrize("n", [1, 4, 10])
def test_a_stored_set_gives_the_bits_of_its_floats(n):
    source = torch.Generator().manual_seed(1)
    stored = ImageSet(torch.randint(256, (n, 1, 4, 4), dtype=torch.uint8, generator=source))
    net = network().eval()
    for each in (net, net.forward):  # a module, and a function that is none
        assert torch.equal(
            extract_features(each, stored, batch_size=4), extract_features(each, stored.floats(), batch_size=4)
        )
        found, truth = (classify(each, images, batch_size=4) for images in (stored, stored.floats()))
        assert torch.equal(found.classes, truth.classes) and torch.equal(found.confidence, truth.confidence)


def test_one_batch_of_a_stored_set_is_floating_point_at_a_time(monkeypatch):
    sizes = []
    monkeypatch.setattr(features, "to_float", lambda part: sizes.append(len(part)) or to_float(part))
    extract_features(nn.Flatten(), ImageSet(torch.zeros(10, 1, 2, 2, dtype=torch.uint8)), batch_size=4)
    assert sizes == [4, 4, 2]


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="images: got an empty set"):
        extract_features(nn.Flatten(), ImageSet(torch.zeros(0, 1, 2, 2, dtype=torch.uint8)))


def test_the_first_predictions():
    found = Predictions(torch.tensor([2, 1, 0]), torch.tensor([0.5, 0.6, 0.7])).first(2)
    assert found.classes.tolist() == [2, 1] and found.confidence.tolist() == pytest.approx([0.5, 0.6])


def test_predictions_are_the_largest_softmax():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    calls = classify(lambda batch: logits[: len(batch)], images(2), batch_size=2)
    assert calls.classes.tolist() == [1, 0]
    expected = [
        2.718281828459045**2 / (1 + 2.718281828459045**2 + 2.718281828459045),
        20.085536923187668 / 22.085536923187668,
    ]
    assert calls.confidence.tolist() == pytest.approx(expected, rel=1e-6)
    assert (calls.classes.dtype, calls.confidence.dtype) == (torch.int64, torch.float32)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), r"of torch.uint8, expected floating-point.*to_float"),
        (torch.zeros(2, 4, 4), r"shape \(2, 4, 4\)"),
        (torch.zeros(0, 1, 4, 4), r"N ≥ 1"),
        (torch.full((2, 1, 4, 4), 255.0), r"values from 255 to 255, expected −1 to 1"),
        (torch.full((2, 1, 4, 4), torch.nan), r"images: 32 of 32 values are NaN"),
    ],
)
def test_images_of_a_wrong_kind_are_refused(bad, match):
    with pytest.raises(InputError, match=match):
        extract_features(nn.Flatten(), bad)


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (nn.Identity(), r"network: got an output of shape \(4, 1, 4, 4\)"),
        (lambda batch: batch.flatten(1)[:1], r"expected \[4, d\]"),
        (lambda batch: batch.flatten(1) / 0, r"features: .* NaN or infinite"),
    ],
)
def test_outputs_of_a_wrong_kind_are_refused(net, match):
    with pytest.raises(InputError, match=match):
        extract_features(net, images(4), batch_size=4)


def test_batch_size_must_be_positive():
    with pytest.raises(InputError, match=r"batch_size: got 0"):
        extract_features(nn.Flatten(), images(), batch_size=0)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (torch.zeros(3), r"set: got shape \(3,\)"),
        (torch.zeros(1, 3), r"N ≥ 2"),
        (torch.tensor([[1.0], [torch.inf]]), r"set: 1 of 2 values"),
    ],
)
def test_features_of_a_wrong_kind_are_refused(bad, match):
    with pytest.raises(InputError, match=match):
        as_features("set", bad)


def test_numpy_features_become_float64():
    assert as_features("set", torch.ones(2, 3).numpy()).dtype == torch.float64


def test_different_dimensions_are_refused():
    with pytest.raises(InputError, match=r"got 3 and 4 dimensions"):
        require_same_dimension(3, 4)
