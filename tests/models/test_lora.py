"""Parts of a network that train, and low-rank corrections: against dense matrices, diffusers and peft."""

import copy

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

import tiny_pipelines
from vdu.core.errors import InputError
from vdu.models.lora import LORA_FILE, LowRank, low_rank_layers, merged, save_lora, training_copy


@pytest.fixture
def unet():
    return tiny_pipelines.condition_unet()


def trained(network):
    return {name for name, value in network.named_parameters() if value.requires_grad}


def corrected(network, rank=2, seed=1):
    """With corrections that are not 0."""
    made = training_copy(network, f"lora:{rank}")
    source = torch.Generator().manual_seed(seed)
    for layer in low_rank_layers(made).values():
        layer.lora_B.data = torch.randn(layer.lora_B.shape, generator=source)
    return made.eval()


def inputs(network, n=2):
    source = torch.Generator().manual_seed(3)
    words = torch.randn(n, 5, network.config.cross_attention_dim, generator=source)
    return torch.randn(n, 4, 8, 8, generator=source), torch.tensor([3, 700])[:n], words


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ("attention", {f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")}),
        ("cross-attention", {f"attn2.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")}),
        ("cross-attention-kv", {"attn2.to_k", "attn2.to_v"}),
    ],
)
def test_a_part_trains_and_the_rest_shares_the_originals_memory(unet, train, expected):
    made = training_copy(unet, train)
    names = trained(made)
    assert {name.rsplit(".", 1)[0].split("transformer_blocks.0.")[1] for name in names} == expected
    assert all(value.requires_grad for value in unet.parameters())  # the original's own flags stay
    for name, value in made.named_parameters():
        shared = value.data_ptr() == unet.get_parameter(name).data_ptr()
        assert shared == (name not in names), name


def test_words_of_joint_attention():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    for pipeline in (tiny_pipelines.sd3(), tiny_pipelines.flux()):
        layers = {
            name.rsplit(".", 1)[0].split("attn.")[1]
            for name in trained(training_copy(pipeline.transformer, "cross-attention"))
        }
        assert layers <= {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"} and "add_k_proj" in layers
        assert low_rank_layers(training_copy(pipeline.transformer, "lora:2"))


def test_all_is_a_copy(unet):
    made = training_copy(unet, "all")
    assert trained(made) == set(dict(unet.named_parameters()))
    assert all(value.data_ptr() != unet.get_parameter(name).data_ptr() for name, value in made.named_parameters())


def test_a_correction_starts_at_nothing_and_is_the_dense_sum(unet):
    given = inputs(unet)
    start = training_copy(unet, "lora:2").eval()
    assert trained(start) == {f"{name}.lora_{which}" for name in low_rank_layers(start) for which in "AB"}
    assert {type(layer) for layer in low_rank_layers(start).values()} == {LowRank}
    with torch.no_grad():
        assert torch.equal(start(*given).sample, unet(*given).sample)
        made, dense = corrected(unet), copy.deepcopy(unet)
        for name, layer in low_rank_layers(made).items():
            dense.get_submodule(name).weight += layer.lora_B @ layer.lora_A
        expected = dense(*given).sample
        torch.testing.assert_close(made(*given).sample, expected, rtol=1e-4, atol=1e-5)
        plain = merged(made)
        torch.testing.assert_close(plain(*given).sample, expected, rtol=1e-4, atol=1e-5)
    assert plain.state_dict().keys() == unet.state_dict().keys() and not low_rank_layers(plain)
    assert low_rank_layers(made)  # the trained network is unchanged
    assert merged(unet) is unet


def test_a_step_moves_the_corrections_alone(unet):
    made, before = training_copy(unet, "lora:2"), {name: value.clone() for name, value in unet.named_parameters()}
    rate = torch.optim.SGD([value for value in made.parameters() if value.requires_grad], lr=0.1)
    for _ in range(2):  # A has no gradient while B is 0
        made(*inputs(unet)).sample.square().mean().backward()
        rate.step()
    moved = [torch.count_nonzero(layer.lora_B).item() > 0 for layer in low_rank_layers(made).values()]
    assert all(moved)
    assert all(torch.equal(value, before[name]) for name, value in unet.named_parameters())


def test_copies_have_corrections_of_their_own(unet):
    made = corrected(unet)
    again = copy.deepcopy(made)
    next(iter(low_rank_layers(again).values())).lora_B.data.zero_()
    with torch.no_grad():
        assert not torch.allclose(again(*inputs(unet)).sample, made(*inputs(unet)).sample)


def test_the_first_values_depend_on_the_seed_alone(unet):
    first, second, other = (training_copy(unet, "lora:2", seed=seed) for seed in (0, 0, 1))
    name = next(iter(low_rank_layers(first)))
    values = [low_rank_layers(each)[name].lora_A for each in (first, second, other)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("cross-atention", r"got 'cross-atention'; expected one of all, attention, .*lora:RANK"),
        ("lora:0", "got 'lora:0'; expected one of"),
        ("text-encoder", "got 'text-encoder' for a UNet2D.*; expected one with a text encoder"),
        ("lora", "got 'lora'; expected one of"),
        ("lora:9", r"got rank 9, above the size of the layer down_blocks.* \(8×8\); expected at most 8"),
    ],
)
def test_what_cannot_train_is_refused(unet, train, message):
    with pytest.raises(InputError, match=message):
        training_copy(unet, train)


def test_all_trains_around_what_is_frozen(unet):
    frozen = next(name for name, _ in unet.named_parameters() if ".attn2.to_k." in name)
    unet.get_parameter(frozen).requires_grad_(False)
    made = training_copy(unet, "all")
    assert [name for name, value in made.named_parameters() if not value.requires_grad] == [frozen]
    with pytest.raises(InputError, match="are frozen"):
        training_copy(unet, "cross-attention")


@pytest.mark.parametrize("train", ["attention", "lora:2"])
def test_a_network_without_such_layers_is_refused(make_unet, train):
    with pytest.raises(
        InputError, match=r"UNet2DModel has no such layers, so nothing would train; expected one of all\."
    ):
        training_copy(make_unet(add_attention=False), train)


def test_every_attention_of_a_network_without_words(make_unet):
    network = make_unet(down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",))
    assert isinstance(network, UNet2DModel) and len(low_rank_layers(training_copy(network, "lora:2"))) > 4
    with pytest.raises(InputError, match="no such layers, so nothing would train; expected one of all, attention"):
        training_copy(network, "cross-attention")


# files


def test_a_compiled_network_has_the_corrections_and_the_file_of_the_plain_one(unet, tmp_path):
    tensors = []
    for network in (unet, torch.compile(unet, backend="eager")):
        tensors.append(load_file(save_lora(training_copy(network, "lora:2"), tmp_path / str(len(tensors)), "unet")))
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[1][name], value) for name, value in tensors[0].items())


def test_the_file_holds_the_factors(unet, tmp_path):
    made = corrected(unet)
    tensors = load_file(save_lora(made, tmp_path / "lora", "unet"))
    assert (tmp_path / "lora" / LORA_FILE).is_file()
    layers = low_rank_layers(made)
    assert len(tensors) == 2 * len(layers)
    plain = merged(made)
    for name, layer in layers.items():
        product = tensors[f"unet.{name}.lora_B.weight"] @ tensors[f"unet.{name}.lora_A.weight"]
        torch.testing.assert_close(layer.weight + product, plain.get_submodule(name).weight)
    with pytest.raises(InputError, match="was not trained with LoRA; expected train='lora:RANK'"):
        save_lora(unet, tmp_path, "unet")


@pytest.mark.parametrize("make", ["stable_diffusion", "sdxl", "sd3", "flux"])
def test_diffusers_loads_the_file_and_draws_the_same(make, tmp_path):
    pytest.importorskip("peft", reason="diffusers loads a LoRA file with peft")
    from vdu.models.adapt import adapt, family_of

    pipeline = getattr(tiny_pipelines, make)()
    denoiser = adapt(pipeline)
    part, source = family_of(pipeline).NETWORK, torch.Generator().manual_seed(0)
    made = corrected(denoiser.network, rank=3)
    x_t, timestep, condition = (
        torch.randn(2, *denoiser.latent_shape, generator=source),
        torch.tensor([3, 700]),
        denoiser.condition(["a cat", None]),
    )
    with torch.no_grad():
        before, expected = (each.raw(x_t, timestep, condition) for each in (denoiser, denoiser.with_network(made)))
        save_lora(made, tmp_path, part)
        pipeline.load_lora_weights(tmp_path)
        found = adapt(pipeline).raw(x_t, timestep, condition)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_what_is_not_cross_attention_is_every_other_layer(unet):
    names = trained(training_copy(unet, "non-cross-attention"))
    layers = {name for name, each in unet.named_modules() if isinstance(each, torch.nn.Linear | torch.nn.Conv2d)}
    expected = {f"{name}.weight" for name in layers if ".attn2." not in name}
    assert {name for name in names if name.endswith("weight")} == expected and len(expected) > 20
