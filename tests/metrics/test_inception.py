import hashlib
import math
import os

import pytest
import torch
from torch import nn
from torch.nn import functional

from vdu.core.checks import hash_parameters
from vdu.core.errors import InputError
from vdu.metrics.features import extract_features
from vdu.metrics.inception import (
    INCEPTION_SHA256,
    INCEPTION_URLS,
    TABLE_SHA256,
    InceptionFeatures,
    load_inception,
    parameter_table,
    pytorch_fid_names,
    resize_like_tensorflow,
    table_sha256,
)

# Every convolution by hand, from the names in the public file: block, then layer:inputs>outputs/kernel height x width.
LAYERS = """
. Conv2d_1a_3x3:3>32/3x3 Conv2d_2a_3x3:32>32/3x3 Conv2d_2b_3x3:32>64/3x3 Conv2d_3b_1x1:64>80/1x1 Conv2d_4a_3x3:80>192/3x3
Mixed_5b 1x1:192>64/1x1 5x5_1:192>48/1x1 5x5_2:48>64/5x5 3x3dbl_1:192>64/1x1 3x3dbl_2:64>96/3x3 3x3dbl_3:96>96/3x3 _pool:192>32/1x1
Mixed_5c 1x1:256>64/1x1 5x5_1:256>48/1x1 5x5_2:48>64/5x5 3x3dbl_1:256>64/1x1 3x3dbl_2:64>96/3x3 3x3dbl_3:96>96/3x3 _pool:256>64/1x1
Mixed_5d 1x1:288>64/1x1 5x5_1:288>48/1x1 5x5_2:48>64/5x5 3x3dbl_1:288>64/1x1 3x3dbl_2:64>96/3x3 3x3dbl_3:96>96/3x3 _pool:288>64/1x1
Mixed_6a 3x3:288>384/3x3 3x3dbl_1:288>64/1x1 3x3dbl_2:64>96/3x3 3x3dbl_3:96>96/3x3
Mixed_6b 1x1:768>192/1x1 7x7_1:768>128/1x1 7x7_2:128>128/1x7 7x7_3:128>192/7x1 7x7dbl_1:768>128/1x1 7x7dbl_2:128>128/7x1 \
7x7dbl_3:128>128/1x7 7x7dbl_4:128>128/7x1 7x7dbl_5:128>192/1x7 _pool:768>192/1x1
Mixed_6c 1x1:768>192/1x1 7x7_1:768>160/1x1 7x7_2:160>160/1x7 7x7_3:160>192/7x1 7x7dbl_1:768>160/1x1 7x7dbl_2:160>160/7x1 \
7x7dbl_3:160>160/1x7 7x7dbl_4:160>160/7x1 7x7dbl_5:160>192/1x7 _pool:768>192/1x1
Mixed_6d 1x1:768>192/1x1 7x7_1:768>160/1x1 7x7_2:160>160/1x7 7x7_3:160>192/7x1 7x7dbl_1:768>160/1x1 7x7dbl_2:160>160/7x1 \
7x7dbl_3:160>160/1x7 7x7dbl_4:160>160/7x1 7x7dbl_5:160>192/1x7 _pool:768>192/1x1
Mixed_6e 1x1:768>192/1x1 7x7_1:768>192/1x1 7x7_2:192>192/1x7 7x7_3:192>192/7x1 7x7dbl_1:768>192/1x1 7x7dbl_2:192>192/7x1 \
7x7dbl_3:192>192/1x7 7x7dbl_4:192>192/7x1 7x7dbl_5:192>192/1x7 _pool:768>192/1x1
Mixed_7a 3x3_1:768>192/1x1 3x3_2:192>320/3x3 7x7x3_1:768>192/1x1 7x7x3_2:192>192/1x7 7x7x3_3:192>192/7x1 7x7x3_4:192>192/3x3
Mixed_7b 1x1:1280>320/1x1 3x3_1:1280>384/1x1 3x3_2a:384>384/1x3 3x3_2b:384>384/3x1 3x3dbl_1:1280>448/1x1 3x3dbl_2:448>384/3x3 \
3x3dbl_3a:384>384/1x3 3x3dbl_3b:384>384/3x1 _pool:1280>192/1x1
Mixed_7c 1x1:2048>320/1x1 3x3_1:2048>384/1x1 3x3_2a:384>384/1x3 3x3_2b:384>384/3x1 3x3dbl_1:2048>448/1x1 3x3dbl_2:448>384/3x3 \
3x3dbl_3a:384>384/1x3 3x3dbl_3b:384>384/3x1 _pool:2048>192/1x1
"""


def table_by_hand():
    shapes = {}
    for line in LAYERS.strip().splitlines():
        block, *layers = line.split()
        for layer in layers:
            name, _, rest = layer.partition(":")
            channels, kernel = rest.split("/")
            inputs, outputs = map(int, channels.split(">"))
            full = name if block == "." else f"{block}.branch{name}"
            shapes[f"{full}.conv.weight"] = (outputs, inputs, *map(int, kernel.split("x")))
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{full}.bn.{part}"] = (outputs,)
    return shapes


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def network():
    """Random weights with which every layer matters and no map dies."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = InceptionFeatures().eval().requires_grad_(False)
        for name, value in network.state_dict().items():
            if name.endswith("conv.weight"):
                nn.init.kaiming_normal_(value)
            elif name.endswith(("bn.weight", "running_var")):
                value.uniform_(0.5, 1.5)
            else:
                value.normal_(0, 0.1)
    return network


@pytest.fixture(scope="module")
def published(network):
    """A state dict as in the public file: the network's and the classifier's."""
    return network.state_dict() | {"fc.weight": noise(1008, 2048), "fc.bias": noise(1008)}


def saved(state, path):
    """The path and the SHA-256 of a file with this content."""
    torch.save(state, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def load(state, path):
    path, sha256 = saved(state, path)
    return load_inception(path, accepted=[sha256])


def test_the_table_is_that_of_the_layers_listed_by_hand():
    table = parameter_table()
    assert table == table_by_hand()
    assert table_sha256(table) == table_sha256(table_by_hand()) == TABLE_SHA256


def test_the_number_of_parameters_is_the_published_one(network):
    count = sum(math.prod(shape) for name, shape in table_by_hand().items() if "running" not in name)
    assert sum(value.numel() for value in network.parameters()) == count == 21_785_568
    channels = sum(shape[0] for name, shape in table_by_hand().items() if name.endswith("bn.bias"))
    everything = sum(value.numel() for value in network.state_dict().values())
    assert everything == count + 2 * channels == 21_820_000
    # Keras states 21,802,784 for InceptionV3(include_top=False); its normalisations have no weight
    assert everything - channels == 21_802_784
    # torchvision states 27,161,264 with 1000 classes and the auxiliary head of 3,326,696
    assert count + 2049 * 1000 + 3_326_696 == 27_161_264
    # and the public file holds the classifier of 1008 classes too
    assert everything + 2049 * 1008 == 23_885_392


# The forward pass written out, in float64, with normalisation and the mean without padding from their formulas.


def dense(state, images):
    def layer(name, x, stride=1, pad=(0, 0)):
        y = functional.conv2d(x, state[f"{name}.conv.weight"].double(), stride=stride, padding=pad)
        weight, bias, mean, variance = (
            state[f"{name}.bn.{part}"].double()[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return ((y - mean) / (variance + 1e-3).sqrt() * weight + bias).clamp(min=0)

    def mean_of_nine(x):
        def total(each):
            return functional.avg_pool2d(each, 3, 1, 1, divisor_override=1)

        return total(x) / total(torch.ones_like(x))

    def chain(x, *steps):
        for name, stride, pad in steps:
            x = layer(name, x, stride, pad)
        return x

    def same(name, kernel=(1, 1)):
        return name, 1, (kernel[0] // 2, kernel[1] // 2)

    row, column, three = (1, 7), (7, 1), (3, 3)
    x = chain(images, ("Conv2d_1a_3x3", 2, 0), ("Conv2d_2a_3x3", 1, 0), ("Conv2d_2b_3x3", 1, 1))
    x = functional.max_pool2d(x, 3, 2)
    x = chain(x, ("Conv2d_3b_1x1", 1, 0), ("Conv2d_4a_3x3", 1, 0))
    x = functional.max_pool2d(x, 3, 2)
    assert x.shape[1:] == (192, 35, 35)
    for letter in "bcd":
        b = f"Mixed_5{letter}.branch"
        x = torch.cat(
            [
                layer(f"{b}1x1", x),
                chain(x, same(f"{b}5x5_1"), same(f"{b}5x5_2", (5, 5))),
                chain(x, same(f"{b}3x3dbl_1"), same(f"{b}3x3dbl_2", three), same(f"{b}3x3dbl_3", three)),
                layer(f"{b}_pool", mean_of_nine(x)),
            ],
            1,
        )
    b = "Mixed_6a.branch"
    double = chain(x, same(f"{b}3x3dbl_1"), same(f"{b}3x3dbl_2", three), (f"{b}3x3dbl_3", 2, 0))
    x = torch.cat([layer(f"{b}3x3", x, 2), double, functional.max_pool2d(x, 3, 2)], 1)
    assert x.shape[1:] == (768, 17, 17)
    for letter in "bcde":
        b = f"Mixed_6{letter}.branch"
        kernels = ((1, 1), column, row, column, row)
        double = chain(x, *(same(f"{b}7x7dbl_{i}", kernel) for i, kernel in enumerate(kernels, 1)))
        single = chain(x, same(f"{b}7x7_1"), same(f"{b}7x7_2", row), same(f"{b}7x7_3", column))
        x = torch.cat([layer(f"{b}1x1", x), single, double, layer(f"{b}_pool", mean_of_nine(x))], 1)
    b = "Mixed_7a.branch"
    single = chain(x, same(f"{b}3x3_1"), (f"{b}3x3_2", 2, 0))
    long = chain(x, same(f"{b}7x7x3_1"), same(f"{b}7x7x3_2", row), same(f"{b}7x7x3_3", column), (f"{b}7x7x3_4", 2, 0))
    x = torch.cat([single, long, functional.max_pool2d(x, 3, 2)], 1)
    assert x.shape[1:] == (1280, 8, 8)
    for letter in "bc":
        b = f"Mixed_7{letter}.branch"
        single, double = layer(f"{b}3x3_1", x), chain(x, same(f"{b}3x3dbl_1"), same(f"{b}3x3dbl_2", three))
        parts = [layer(f"{b}1x1", x)]
        for name, y in ((f"{b}3x3_2", single), (f"{b}3x3dbl_3", double)):
            parts += [layer(f"{name}a", y, 1, (0, 1)), layer(f"{name}b", y, 1, (1, 0))]
        pooled = functional.max_pool2d(x, 3, 1, 1) if letter == "c" else mean_of_nine(x)
        x = torch.cat([*parts, layer(f"{b}_pool", pooled)], 1)
    assert x.shape[1:] == (2048, 8, 8)
    return x.sum((2, 3)) / 64


def test_features_are_those_of_the_network_written_out(network):
    levels = torch.randint(0, 256, (1, 3, 299, 299), generator=torch.Generator().manual_seed(0))
    truth = dense(network.state_dict(), (levels.double() - 128) / 128)
    ours = network(levels / 127.5 - 1)
    assert truth.std() > 0.1
    # float32 through dozens of layers: 1e-5 of the largest feature is 40 times what is seen
    torch.testing.assert_close(ours.double(), truth, rtol=0.0, atol=1e-5 * float(truth.max()))


@pytest.mark.parametrize(("height", "width", "size"), [(5, 7, 11), (13, 9, 4), (1, 1, 3), (6, 6, 6)])
def test_resizing_is_that_of_a_loop(height, width, size):
    x = noise(1, 1, height, width).double()

    def at(i, n):
        place = i * n / size
        low = math.floor(place)
        return low, min(low + 1, n - 1), place - low

    truth = torch.empty(size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            top, bottom, v = at(i, height)
            left, right, h = at(j, width)
            upper = (1 - h) * x[0, 0, top, left] + h * x[0, 0, top, right]
            lower = (1 - h) * x[0, 0, bottom, left] + h * x[0, 0, bottom, right]
            truth[i, j] = (1 - v) * upper + v * lower
    # coordinates are float32, as in TensorFlow
    torch.testing.assert_close(resize_like_tensorflow(x, size)[0, 0], truth, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 64, 40), (1, 3, 320, 500), (1, 1, 1, 1)])
def test_any_size_gives_2048_features(network, shape):
    features = network(noise(*shape))
    assert features.shape == (shape[0], 2048) and features.dtype == torch.float32
    assert bool((features >= 0).all()) and float(features.std()) > 0.1


def test_grey_is_three_equal_channels(network):
    grey = noise(2, 1, 28, 28)
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))


def test_only_stored_levels_are_seen(network):
    levels = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    x = (levels / 127.5 - 1).clamp(-1, 1)
    assert torch.equal(network((x + 0.4 / 127.5).clamp(-1, 1)), network(x))
    assert not torch.equal(network((x - 0.6 / 127.5).clamp(-1, 1)), network(x))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[1, 3, 8, 8\].*to_float"),
        (torch.zeros(1, 2, 8, 8), r"\[1, 2, 8, 8\]; expected floating-point \[images, 1 or 3"),
        (torch.zeros(3, 8, 8), r"\[3, 8, 8\]"),
        (torch.full((1, 3, 8, 8), 255.0), "values from 255 to 255; expected −1 to 1"),
        (torch.full((1, 3, 8, 8), math.nan), "values from nan to nan"),
    ],
)
def test_other_images_are_refused(network, images, message):
    with pytest.raises(InputError, match=message):
        network(images)


@pytest.mark.slow
def test_extract_features_gives_the_same_whatever_n_and_mode(network):
    images = noise(3, 3, 16, 16)
    truth = extract_features(network, images, batch_size=2)
    assert torch.equal(extract_features(network, images[:1], batch_size=2), truth[:1])
    network.train()  # there is no training mode: moments stay those of the file
    before = hash_parameters(network.state_dict())
    assert torch.equal(network(images[:2]).double(), truth[:2])
    assert hash_parameters(network.state_dict()) == before
    network.eval()


def as_pytorch_fid(state):
    """Names as in pytorch-fid's module, written out: four groups that end at a pooling."""
    groups = [
        ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"],
        ["Conv2d_3b_1x1", "Conv2d_4a_3x3"],
        [f"Mixed_{each}" for each in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")],
        ["Mixed_7a", "Mixed_7b", "Mixed_7c"],
    ]
    place = {name: f"blocks.{i}.{j}" for i, group in enumerate(groups) for j, name in enumerate(group)}
    assert {theirs: ours for ours, theirs in place.items()} == pytorch_fid_names()
    renamed = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        if first != "fc":
            renamed[f"{place[first]}.{rest}"] = value
        if name.endswith("running_var"):  # its normalisations count their batches
            renamed[f"{place[first]}.{rest.removesuffix('running_var')}num_batches_tracked"] = torch.tensor(0)
    return renamed


@pytest.mark.parametrize("naming", [dict, as_pytorch_fid])
def test_both_namings_load_and_give_the_same_bits(network, published, tmp_path, naming):
    state = torch.random.get_rng_state()
    loaded = load(naming(published), tmp_path / "weights.pth")
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing was drawn
    assert not loaded.training and not any(value.requires_grad for value in loaded.parameters())
    assert loaded.weights_sha256 == hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    images = noise(2, 3, 32, 32)
    assert torch.equal(loaded(images), network(images))


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "Mixed_5b.branch1x1.bn.bias"), r"Mixed_5b\.branch1x1\.bn\.bias: missing"),
        (lambda s: s | {"Mixed_8a.bn.bias": noise(3)}, r"Mixed_8a\.bn\.bias: unexpected"),
        (
            lambda s: s | {"Conv2d_1a_3x3.conv.weight": noise(32, 1, 3, 3)},
            r"Conv2d_1a_3x3\.conv\.weight: got shape \(32, 1, 3, 3\), expected \(32, 3, 3, 3\)",
        ),
        (
            lambda s: s | {"Conv2d_1a_3x3.bn.bias": noise(32).half()},
            "bn.bias: got torch.float16; expected torch.float32",
        ),
        (lambda s: s | {"Conv2d_1a_3x3.bn.bias": torch.full((32,), math.nan)}, "bn.bias: 32 of 32 values are NaN"),
        (lambda s: {"state_dict": s}, "holds dict; expected a state dict of tensors alone"),
    ],
)
def test_other_tensors_are_refused(published, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load(change(published), tmp_path / "weights.pth")


def test_the_first_differences_are_listed_and_the_rest_counted(published, tmp_path):
    strangers = {f"x{i}": noise(1) for i in range(7)}
    with pytest.raises(InputError, match="x0: unexpected; x1: unexpected; .*and 2 more"):
        load(published | strangers, tmp_path / "weights.pth")


def test_another_file_is_refused_by_its_checksum(published, tmp_path):
    path, sha256 = saved(published, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=rf"weights\.pth: has the SHA-256 {sha256}") as caught:
        load_inception(path)
    for text in (INCEPTION_SHA256[0], *INCEPTION_URLS, "torchvision's own Inception is another network"):
        assert text in str(caught.value)
    with pytest.raises(InputError, match=r"none\.pth: no such file.*6726825d"):
        load_inception(tmp_path / "none.pth")


def test_a_truncated_file_is_refused_with_and_without_its_checksum(published, tmp_path):
    path, sha256 = saved(published, tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[:1_000_000])
    with pytest.raises(InputError, match="damaged, cut short or another network"):
        load_inception(path, accepted=[sha256])
    with pytest.raises(InputError, match=r"cannot be read without running code in it \(RuntimeError"):
        load_inception(path, accepted=[hashlib.sha256(path.read_bytes()).hexdigest()])


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_file_does_not_run(tmp_path):
    mark = tmp_path / "ran"
    path, sha256 = saved({"Conv2d_1a_3x3.bn.bias": Runs(str(mark))}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="has the SHA-256"):
        load_inception(path)
    with pytest.raises(InputError, match="cannot be read without running code"):
        load_inception(path, accepted=[sha256])
    assert not mark.exists()
    torch.load(path, weights_only=False)  # it would have run
    assert mark.exists()
