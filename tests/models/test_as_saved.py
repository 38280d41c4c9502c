"""A pipeline that was changed in a way that its saved files do not carry is refused before any work; what changes no sample is taken.

Whether a change is carried is seen by saving and loading in plain diffusers.
"""

import copy
import json
import threading
import types
from importlib import import_module

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import DDPMPipeline, DDPMScheduler, FirstBlockCacheConfig, LCMScheduler, UNet2DModel
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import tiny_pipelines
import vdu
from vdu.core.errors import InputError
from vdu.models.adapt import adapt
from vdu.models.as_saved import require_as_saved, require_no_global_hooks
from vdu.models.configuration import require_switches
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.identity import (
    configuration_sha256,
    differences,
    identity,
    is_recorded_configuration,
    recorded_identities,
)

ATTENTION = {"down_block_types": ("AttnDownBlock2D",), "up_block_types": ("AttnUpBlock2D",)}


def opened(pipeline):
    return PipelineDenoiser.from_pipeline(pipeline)


class Half:
    def __call__(self, attn, hidden_states, *_, **__):
        return hidden_states / 2


class OwnUNet(UNet2DModel):
    pass


class OwnScheduler(DDPMScheduler):
    pass


class OwnPipeline(DDPMPipeline):
    pass


class OwnTensor(torch.Tensor):
    pass


def convolutions(unet):
    return [each for each in unet.modules() if isinstance(each, torch.nn.Conv2d)]


def attentions(unet):
    return [each for each in unet.modules() if hasattr(each, "processor")]


def circular(unet):
    for each in convolutions(unet):
        each.padding_mode = "circular"


def own_processor(unet):
    attentions(unet)[0].processor = Half()


def patched(unet):
    unet.forward = types.MethodType(lambda self, *a, **k: UNet2DModel.forward(self, *a, **k), unet)


def left_by_accelerate(unet):
    AcceleratorState._reset_state(True)
    Accelerator(mixed_precision="bf16", cpu=True).prepare(unet)
    AcceleratorState._reset_state(True)


def tied(unet):
    unet.conv_out.weight = torch.nn.Parameter(unet.conv_in.weight.detach().view_as(unet.conv_out.weight))


def of_one_kind(unet):
    attentions(unet)[1].to_q = attentions(unet)[0].to_q


def own_kind_of_tensor(unet):
    unet.conv_in.weight = torch.nn.Parameter(unet.conv_in.weight.detach().as_subclass(OwnTensor))


NETWORK = {
    "a hook": (lambda unet: unet.conv_in.register_forward_hook(lambda *_: None), r"conv_in has the hook .*Call remove\(\)"),
    "a hook before": (lambda unet: unet.register_forward_pre_hook(lambda *_: None), "it has the hook"),
    "a hook on gradients": (lambda unet: unet.conv_in.register_full_backward_hook(lambda *_: None), "conv_in has the hook"),
    "a processor of one's own": (own_processor, r"processor '.*Half' instead of 'AttnProcessor'.*set_processor of that module"),
    "circular padding": (circular, "conv_in has padding_mode 'circular' instead of 'zeros'"),
    "another epsilon": (lambda unet: setattr(unet.conv_norm_out, "eps", 0.5), "conv_norm_out has eps 0.5 instead of 1e-05"),
    "a patched forward": (patched, r"it has a forward of its own .*delete the attribute"),
    "a patched method": (lambda unet: setattr(unet.conv_in, "_conv_forward", functional.conv2d), "a _conv_forward of its own"),
    "a forward of accelerate": (left_by_accelerate, r"convert_outputs_to_fp32.*unwrap_model\(…, keep_fp32_wrapper=False\)"),
    "weight norm": (lambda unet: parametrizations.weight_norm(unet.conv_in), r"ParametrizedConv2d instead of .*remove_parametrizations"),
    "spectral norm": (lambda unet: torch.nn.utils.spectral_norm(unet.conv_in), "hook torch.nn.utils.spectral_norm.*Make it permanent"),
    "pruning": (lambda unet: prune.l1_unstructured(unet.conv_in, "weight", 0.5), r"prune\.L1Unstructured.*prune\.remove"),
    "a sequence for a layer": (
        lambda unet: setattr(unet, "conv_out", torch.nn.Sequential(unet.conv_out, torch.nn.Tanh())),
        r"conv_out is torch\.nn\.modules\.container\.Sequential instead of torch\.nn\.modules\.conv\.Conv2d",
    ),
    "a module more": (lambda unet: setattr(unet, "extra", torch.nn.Linear(2, 2)), "it has extra besides"),
    "a buffer more": (lambda unet: unet.register_buffer("b", torch.ones(3), persistent=False), "it has b besides"),
    "a layer less": (lambda unet: delattr(unet, "conv_norm_out"), "it lacks conv_norm_out"),
    "a longer bias": (lambda unet: setattr(unet.conv_in, "bias", torch.nn.Parameter(torch.zeros(9))), r"bias is a Parameter of \(9,\)"),
    "a tensor of its own kind": (own_kind_of_tensor, "a OwnTensor of .* instead of a Parameter"),
    "two names of one tensor": (tied, r"conv_in\.weight and conv_out\.weight share their values.*Give each its own"),
    "two names of one layer": (of_one_kind, "to_q.weight and .*to_q.weight share their values"),
    "another activation in its configuration": (
        lambda unet: unet.register_to_config(act_fn="gelu"), r"nonlinearity is torch.*SiLU instead of torch.*GELU",
    ),
    "another width in its configuration": (lambda unet: unet.register_to_config(block_out_channels=(16,)), "out_channels 8 instead of 16"),
    "a block that nobody knows": (
        lambda unet: unet.register_to_config(down_block_types=("Nope",)), r"makes no UNet2DModel \(Nope does not exist",
    ),
    "a class of one's own": (lambda unet: setattr(unet, "__class__", OwnUNet), r"\.OwnUNet, which nobody finds"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NETWORK)
def test_a_network_that_would_be_saved_as_another_is_refused(make_pipeline, tmp_path, name):
    change, message = NETWORK[name]
    pipeline = make_pipeline(**ATTENTION)
    opened(pipeline)
    change(pipeline.unet)
    with pytest.raises(InputError, match=message):
        vdu.unlearn(pipeline, "ascent", forget=torch.zeros(4, 1, 8, 8, dtype=torch.uint8), steps=1, progress=None)
    for use in (opened, lambda each: vdu.save_pipeline(each, tmp_path)):
        with pytest.raises(InputError, match=message):
            use(pipeline)
    assert not list(tmp_path.iterdir())


def offloaded(unet):
    from accelerate.hooks import CpuOffload, add_hook_to_module

    add_hook_to_module(unet, CpuOffload("cpu"))


def unwrapped(unet):
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    accelerator.unwrap_model(accelerator.prepare(unet), keep_fp32_wrapper=False)
    AcceleratorState._reset_state(True)


def pruned_for_good(unet):
    prune.l1_unstructured(unet.conv_in, "weight", 0.5)
    prune.remove(unet.conv_in, "weight")


def normed_for_good(unet):
    parametrizations.weight_norm(unet.conv_in)
    torch.nn.utils.parametrize.remove_parametrizations(unet.conv_in, "weight")


SOUND = {
    "gradient checkpointing": lambda unet: unet.train().enable_gradient_checkpointing(),
    "the plain processor": lambda unet: [each.set_processor(AttnProcessor()) for each in attentions(unet)],
    "attention in slices": lambda unet: [each.set_attention_slice(1) for each in attentions(unet)],
    "compiled": lambda unet: unet.compile(backend="eager"),
    "another order in memory": lambda unet: unet.to(memory_format=torch.channels_last),
    "frozen": lambda unet: unet.requires_grad_(False),
    "offloading": offloaded,
    "accelerate taken off": unwrapped,
    "a hook taken off": lambda unet: unet.register_forward_hook(lambda *_: None).remove(),
    "pruning made permanent": pruned_for_good,
    "weight norm made permanent": normed_for_good,
    "a remark": lambda unet: setattr(unet, "remark", "mine"),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_its_files_give_back_is_taken(make_pipeline, tmp_path, name):
    pipeline = make_pipeline(**ATTENTION)
    SOUND[name](pipeline.unet)
    known = identity(opened(pipeline))
    pipeline.save_pretrained(tmp_path)
    assert identity(opened(DDPMPipeline.from_pretrained(tmp_path))) == known


def test_hooks_of_the_whole_process_are_refused(make_pipeline):
    modules, optimizers = torch.nn.modules.module, import_module("torch.optim.optimizer")
    for register in (
        modules.register_module_forward_hook,
        modules.register_module_forward_pre_hook,
        modules.register_module_full_backward_hook,
        modules.register_module_buffer_registration_hook,
        modules.register_module_module_registration_hook,
        modules.register_module_parameter_registration_hook,
        optimizers.register_optimizer_step_pre_hook,
        optimizers.register_optimizer_step_post_hook,
    ):
        handle = register(lambda *_: None)
        try:
            with pytest.raises(InputError, match="registered for all modules or optimizers of this process"):
                opened(make_pipeline())
        finally:
            handle.remove()
    require_no_global_hooks()


def test_networks_are_checked_in_threads_at_once_and_beside_others_that_are_made(make_pipeline):
    """Whoever makes a module meanwhile, or afterwards, has one with values."""
    models = [make_pipeline(**ATTENTION) for _ in range(2)]
    checked, on_meta = threading.Event(), []

    def make():
        while not checked.is_set():
            on_meta.append(torch.nn.Linear(2, 2).weight.is_meta)

    def check(pipeline):
        for _ in range(5):
            require_as_saved(pipeline.unet, "network")

    maker = threading.Thread(target=make)
    threads = [threading.Thread(target=check, args=(each,)) for each in models]
    maker.start()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    checked.set()
    maker.join()
    assert on_meta and not any(on_meta) and not torch.nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize(("kind", "scheduler"), [(DDPMPipeline, OwnScheduler), (OwnPipeline, DDPMScheduler)])
def test_a_class_of_ones_own_around_the_network_is_refused(make_pipeline, tmp_path, kind, scheduler):
    pipeline, what = kind(make_pipeline().unet, scheduler()), "class" if kind is OwnPipeline else "scheduler"
    own = {"class": "OwnPipeline", "scheduler": "OwnScheduler"}[what]
    forget = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    for use in (
        opened,
        lambda each: vdu.save_pipeline(each, tmp_path),
        lambda each: vdu.unlearn(each, "ascent", forget=forget, steps=1, progress=None, folder=tmp_path / "run"),
    ):
        with pytest.raises(InputError, match=rf"its {what} is a .*\.{own}, which nobody finds"):
            use(pipeline)
    assert not list(tmp_path.iterdir())


def hook_on(pipeline):
    pipeline.unet.register_forward_hook(lambda *_: None)


def levels_of_its_own(pipeline):
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod**2


def class_of_its_own(pipeline):
    pipeline.__class__ = OwnPipeline


def not_a_number(pipeline):
    pipeline.unet.conv_in.bias.data[0] = float("nan")


RESULT = {
    "hook": (hook_on, "it has the hook"),
    "levels": (levels_of_its_own, "alphas_cumprod"),
    "class": (class_of_its_own, "its class is a"),
    "nan": (not_a_number, "NaN or infinite weights in 1 tensors"),
}


@pytest.mark.parametrize("name", RESULT)
def test_a_result_that_was_changed_afterwards_is_not_saved_as_if_it_were_not(make_pipeline, tmp_path, name):
    change, message = RESULT[name]
    forget = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    result = vdu.unlearn(
        make_pipeline(), "ascent", forget=forget, steps=1, batch_size=2, learning_rate=1e-6, progress=None
    )
    result.save_pretrained(tmp_path / "sound")
    change(result.pipeline)
    with pytest.raises(InputError, match=message):
        result.save_pretrained(tmp_path / "changed")
    assert not list((tmp_path / "changed").glob("*"))


def test_a_pipeline_in_half_precision_is_saved_as_it_is(make_pipeline, tmp_path):
    pipeline = make_pipeline().to(torch.float16)
    vdu.save_pipeline(pipeline, tmp_path)
    loaded = vdu.load_pipeline(tmp_path)
    for name, value in pipeline.unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], value.float()), name


# autoencoders and words


@pytest.fixture
def stable_diffusion():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    return tiny_pipelines.stable_diffusion()


@pytest.fixture(scope="module")
def emoji():
    pytest.importorskip("transformers", reason="the packaged model reads words")
    return vdu.load_pipeline("zoo:emoji")


def quantised(pipeline):
    pipeline.text_encoder = torch.ao.quantization.quantize_dynamic(pipeline.text_encoder, {torch.nn.Linear})


def wordless(pipeline):
    pipeline.text_encoder = pipeline.tokenizer = None


PARTS = {
    "a hook on the autoencoder": (
        lambda each: each.vae.decoder.register_forward_hook(lambda *_: None), "its autoencoder is not .*: decoder has the hook",
    ),
    "tiles": (lambda each: each.vae.enable_tiling(), r"its autoencoder is not .*use_tiling True instead of False.*disable_tiling\(\)"),
    "a hook on the words": (
        lambda each: each.text_encoder.register_forward_hook(lambda *_: None), r"text encoder CLIPTextModel \(1\) is not .* has the hook",
    ),
    "layers of the words": (lambda each: setattr(each.text_encoder.config, "num_hidden_layers", 1), r"it has .*layers\.1 besides"),
    "quantised words": (quantised, "quantized"),
    "no words": (wordless, "has no text_encoder and no tokenizer, so it cannot read a prompt; expected both"),
    "FreeU": (lambda each: each.enable_freeu(0.9, 0.2, 1.5, 1.6), r"FreeU on, which no saved model has.*disable_freeu\(\)"),
    "group offloading": (
        lambda each: each.unet.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"),
        "conv_in has a forward of its own .*load the pipeline again, without enable_group_offload",
    ),
    "layerwise casting": (
        lambda each: each.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32),
        "conv_in has a forward of its own .*load the pipeline again, without enable_group_offload and enable_layerwise_casting",
    ),
    "scale 0": (lambda each: each.vae.register_to_config(scaling_factor=0.0), r"have the scale 0\.0 and the shift 0\.0; expected finite"),
    "scale nan": (lambda each: each.vae.register_to_config(scaling_factor=float("nan")), "scaling_factor: got nan; expected a finite"),
    "no scale": (lambda each: each.vae.register_to_config(scaling_factor=None), "autoencoder: scaling_factor: got None; expected a finite"),
    "a scale in quotes": (
        lambda each: each.vae.register_to_config(scaling_factor="0.7"), r"scaling_factor: got '0\.7'; expected a finite number",
    ),
    "a scale that is a switch": (lambda each: each.vae.register_to_config(scaling_factor=True), "factor: got True; expected a finite"),
    "a shift in quotes": (lambda each: each.vae.register_to_config(shift_factor="0.1"), r"shift_factor: got '0\.1'; expected a finite"),
    "a switch of the network": (
        lambda each: each.unet.register_to_config(center_input_sample="false"),
        "its network: center_input_sample: got 'false'; expected true or false",
    ),
    "switches of each block": (
        lambda each: each.unet.register_to_config(only_cross_attention=[False, "false"]),
        "its network: only_cross_attention: got 'false'; expected true or false",
    ),
    "a switch of the autoencoder": (
        lambda each: each.vae.register_to_config(force_upcast="false"), "its autoencoder: force_upcast: got 'false'; expected true",
    ),
    "a switch of the words": (
        lambda each: setattr(each.text_encoder.config, "use_attention_mask", "false"),
        r"its text encoder CLIPTextModel \(1\): use_attention_mask: got 'false'; expected true or false",
    ),
    "endless prompts": (
        lambda each: setattr(each.tokenizer, "model_max_length", int(1e30)),
        r"its text_encoder reads 64; expected at most as many\. Set pipeline\.tokenizer\.model_max_length = 64",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PARTS)
def test_parts_around_the_network_are_refused_too(stable_diffusion, tmp_path, name):
    change, message = PARTS[name]
    change(stable_diffusion)
    for use in (opened, lambda each: vdu.save_pipeline(each, tmp_path)):
        with pytest.raises(InputError, match=message):
            use(stable_diffusion)
    assert not list(tmp_path.iterdir())


def test_a_cache_of_diffusers_is_refused_until_it_is_off():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.flux()
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.9))
    with pytest.raises(InputError, match=r"transformer_blocks\.0 has a forward of its own .*disable_cache\(\)"):
        opened(pipeline)
    pipeline.transformer.disable_cache()
    opened(pipeline)
    pipeline.vae.register_to_config(shift_factor=None)
    with pytest.raises(InputError, match="the shift None"):
        opened(pipeline)


def test_truth_values_of_each_kind_are_taken(stable_diffusion):
    for each in (True, 0, [True, False], (False, True)):
        stable_diffusion.unet.register_to_config(only_cross_attention=each)
        require_switches(stable_diffusion.unet, "network")
    stable_diffusion.unet.register_to_config(mid_block_only_cross_attention=None, cross_attention_norm="layer_norm")
    stable_diffusion.text_encoder.config.use_attention_mask = True
    for each in (stable_diffusion, *stable_diffusion.components.values()):
        require_switches(each, "pipeline")


def test_a_switch_of_the_pipeline_in_quotes_is_refused():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = tiny_pipelines.sdxl()
    pipeline.register_to_config(force_zeros_for_empty_prompt="false")
    with pytest.raises(InputError, match="pipeline: force_zeros_for_empty_prompt: got 'false'; expected true or false"):
        opened(pipeline)


def test_values_that_are_not_saved_are_compared():
    pipeline = tiny_pipelines.dit()
    assert "pos_embed.pos_embed" not in pipeline.transformer.state_dict()
    opened(pipeline)
    pipeline.transformer.pos_embed.pos_embed *= 2
    with pytest.raises(InputError, match=r"pos_embed\.pos_embed, which is not saved, has other values"):
        opened(pipeline)


def test_an_autoencoder_in_slices_makes_the_same_images(stable_diffusion):
    model, latents = opened(stable_diffusion), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    known, images = identity(model), model.decode(latents)
    stable_diffusion.vae.enable_slicing()
    sliced = opened(stable_diffusion)
    assert identity(sliced) == known
    torch.testing.assert_close(sliced.decode(latents), images, rtol=0, atol=1e-5)


def test_a_network_that_was_trained_in_half_precision_is_taken(stable_diffusion):
    known = identity(opened(stable_diffusion))
    unwrapped(stable_diffusion.unet)
    assert "forward" in vars(stable_diffusion.unet)  # without the decorator that the class has around it
    assert identity(opened(stable_diffusion)) == known


def test_model_offloading_of_a_pipeline_changes_nothing(stable_diffusion):
    known = identity(opened(stable_diffusion))
    stable_diffusion.enable_model_cpu_offload(device="cpu")
    assert identity(opened(stable_diffusion)) == known


def test_a_token_more_is_a_model_of_its_own_that_is_taken(stable_diffusion):
    known = identity(opened(stable_diffusion))
    stable_diffusion.tokenizer.add_tokens(["<cat-toy>"])
    stable_diffusion.text_encoder.resize_token_embeddings(len(stable_diffusion.tokenizer), mean_resizing=False)
    assert identity(opened(stable_diffusion)) != known


def made_with(tokenizer, folder, **options):
    tokenizer.save_pretrained(folder)
    return type(tokenizer).from_pretrained(folder, **options)


@pytest.mark.parametrize(("option", "value"), [("pad_token", "!"), ("padding_side", "left"), ("model_max_length", 32)])
def test_how_prompts_are_filled_up_is_part_of_what_a_model_is(stable_diffusion, tmp_path, option, value):
    def words():
        model = opened(stable_diffusion)
        return identity(model), model.condition(["a cat"])["encoder_hidden_states"]

    known, before = words()
    stable_diffusion.tokenizer = made_with(stable_diffusion.tokenizer, tmp_path / "tokenizer", **{option: value})
    other, after = words()
    assert other != known and not torch.equal(after, before)
    stable_diffusion.save_pretrained(tmp_path)
    assert identity(opened(vdu.load_pipeline(tmp_path))) == other


@pytest.mark.parametrize(
    ("option", "value", "lost"),
    [
        ("padding_side", "left", "padding"),
        ("truncation_side", "left", "padding"),
        ("bos_token", "!", "rules"),
        ("eos_token", "b", "rules"),
    ],
)
def test_a_tokenizer_that_its_files_do_not_give_back_is_refused(stable_diffusion, tmp_path, option, value, lost):
    """What is set on it is not saved, or has no effect before it is loaded; what it is made with is."""
    made = made_with(stable_diffusion.tokenizer, tmp_path, **{option: value})
    setattr(stable_diffusion.tokenizer, option, value)
    for use in (opened, lambda each: vdu.save_pipeline(each, tmp_path / "refused")):
        with pytest.raises(InputError, match=rf"its CLIPTokenizer is not what its saved files give back \({lost}\)"):
            use(stable_diffusion)
    assert not (tmp_path / "refused").exists()
    stable_diffusion.tokenizer = made  # as the message says
    known, words = identity(opened(stable_diffusion)), opened(stable_diffusion).condition(["a cat"])
    vdu.save_pipeline(stable_diffusion, tmp_path / "saved")
    loaded = opened(vdu.load_pipeline(tmp_path / "saved"))
    assert identity(loaded) == known
    assert torch.equal(loaded.condition(["a cat"])["encoder_hidden_states"], words["encoder_hidden_states"])


def test_files_of_another_tokenizer_do_not_stay_beside_a_saved_one(stable_diffusion, tmp_path):
    """transformers reads them, too: here another padding, and a word more than there are embeddings."""
    stable_diffusion.tokenizer.pad_token = "!"
    (tmp_path / "tokenizer").mkdir()
    left = {"special_tokens_map.json": {"pad_token": "<|endoftext|>"}, "added_tokens.json": {"<cat>": 514}}
    for name, held in left.items():
        (tmp_path / "tokenizer" / name).write_text(json.dumps(held))
    vdu.save_pipeline(stable_diffusion, tmp_path)
    assert identity(opened(vdu.load_pipeline(tmp_path))) == identity(opened(stable_diffusion))


def test_whether_padding_is_hidden_from_the_text_encoder_is_part_of_what_a_model_is(stable_diffusion):
    kept = opened(stable_diffusion)
    known, words = identity(kept), kept.condition(["a cat"])["encoder_hidden_states"]
    stable_diffusion.text_encoder.config.use_attention_mask = True
    assert not torch.equal(kept.condition(["a cat"])["encoder_hidden_states"], words)
    assert identity(kept) == identity(opened(stable_diffusion)) != known
    assert known in recorded_identities(kept)  # of an earlier version, which did not tell


def tokens_by(tokenizer, change):
    """A tokenizer after a change of its tokenizer.json."""
    held = json.loads(tokenizer.backend_tokenizer.to_str())
    change(held)
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(held))


FORMER = {  # without the options of the text encoder, and before that without the rules of its tokenizer too
    "configuration": (
        "41e9df8ae05d1fc3aa68873d711133a03c7b658e2da5f7dbb8c5cd2303afb512",
        "dbd27630a27a55de2cdc4bddfb6918af8c55991eea1925deb5d28d91da48103b",
    ),
    "identity": {
        "0f6302c117500345249b9a208938eb8d60bab1e294556235d78d20f962fb1945",
        "f45e07f45a56dec7172b97b8edcc65d427c284586b545d0c6c6a002840f3fbca",
    },
}
RULES = {
    "a merge less": lambda held: held["model"]["merges"].pop(),
    "merges in another order": lambda held: held["model"]["merges"].reverse(),
    "letters keep their case": lambda held: held["normalizer"]["normalizers"].pop(),
    "one word for another": lambda held: held["normalizer"]["normalizers"].append(
        {"type": "Replace", "pattern": {"String": "dog"}, "content": "cat"}
    ),
    "no punctuation": lambda held: held["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Punctuation", "behavior": "Removed"}),
}  # fmt: skip


@pytest.mark.parametrize("change", RULES)
def test_how_texts_become_tokens_is_part_of_what_a_model_is(emoji, change):
    pipeline = copy.copy(emoji)
    known, configuration = identity(adapt(pipeline)), configuration_sha256(adapt(pipeline))
    pipeline.tokenizer = copy.deepcopy(pipeline.tokenizer)
    pipeline.tokenizer(
        ["a longer prompt", "another"], padding=True, truncation=True, max_length=5
    )  # which it keeps in itself
    assert identity(adapt(pipeline)) == known
    tokens_by(pipeline.tokenizer, RULES[change])
    assert identity(adapt(pipeline)) != known
    assert not is_recorded_configuration(pipeline, adapt(pipeline), configuration)


def test_what_earlier_versions_recorded_of_a_text_model_is_still_its_own(emoji):
    """As two versions before hashed the packaged model."""
    assert all(is_recorded_configuration(emoji, opened(emoji), each) for each in FORMER["configuration"])
    assert FORMER["identity"] < recorded_identities(opened(emoji))


def of_text_encoder(pipeline, folder, part="text_encoder", **options):
    """A pipeline after a change of its text encoder's config.json; None takes an option out."""
    vdu.save_pipeline(pipeline, folder)
    file = folder / part / "config.json"
    held = json.loads(file.read_text()) | options
    file.write_text(json.dumps({name: value for name, value in held.items() if value is not None}))
    return opened(vdu.load_pipeline(folder))


@pytest.mark.parametrize(
    ("part", "option"),
    [
        ("text_encoder", {"num_attention_heads": 1}),
        ("text_encoder", {"hidden_act": "gelu"}),
        ("text_encoder", {"layer_norm_eps": 0.01}),
        ("text_encoder_2", {"layer_norm_epsilon": 0.01}),
        ("text_encoder_2", {"dense_act_fn": "gelu"}),
    ],
)
def test_an_option_of_a_text_encoder_is_part_of_what_a_model_is(stable_diffusion, tmp_path, part, option):
    pipeline = stable_diffusion if part == "text_encoder" else tiny_pipelines.flux()
    known, other = opened(pipeline), of_text_encoder(pipeline, tmp_path, part, **option)
    before, after = (each.condition(["a long prompt about a cat"])["encoder_hidden_states"] for each in (known, other))
    assert not torch.equal(before, after)
    assert identity(known) != identity(other) and configuration_sha256(known) != configuration_sha256(other)
    assert differences(known, other) == ["words"]
    assert not recorded_identities(other) & {identity(known)}


def test_what_changes_no_word_of_a_text_encoder_does_not_count(stable_diffusion, tmp_path):
    known = identity(opened(stable_diffusion))
    names = {"architectures": ["Other"], "transformers_version": "4.50.0", "id2label": {"0": "a"}, "use_cache": False}
    assert identity(of_text_encoder(stable_diffusion, tmp_path, **names)) == known
    assert identity(of_text_encoder(stable_diffusion, tmp_path, hidden_act=None)) == known  # its default


def test_a_scheduler_of_lcm_is_sampled_without_a_warning(make_pipeline, caplog, capsys):
    pipeline = DDPMPipeline(make_pipeline().unet, LCMScheduler())
    vdu.sample(pipeline, [0, 1], vdu.Sampler("ddim", 2))
    assert "original_inference_steps" not in caplog.text + capsys.readouterr().err
