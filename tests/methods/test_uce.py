"""UCE against brute-force least squares in float64, and on a tiny text-to-image model end to end."""

import pytest
import torch

import tiny_pipelines
from vdu.core.errors import InputError
from vdu.diffusion.sampling import Sampler
from vdu.methods.uce import UCE, _tokens, edit
from vdu.models.adapt import adapt
from vdu.unlearning.form import conditions
from vdu.unlearning.unlearn import planned, unlearn

QUICK = {"sampler": Sampler("ddim", 1, microbatch_size=256), "progress": None}


def rows(n, width, seed):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m"), [(3, 5), (1, 0), (40, 60)])
def test_it_is_the_least_squares_solution(n, m):
    """The three squares stacked into one overdetermined system, row by row of W, by QR and not by normal equations."""
    width, keep_weight, ridge = 7, 0.3, 0.2
    old, new, kept, weight = rows(n, width, 0), rows(n, width, 1), rows(m, width, 2), rows(4, width, 3)
    found = weight + weight @ edit(old, new, kept, keep_weight=keep_weight, ridge=ridge)
    eye = torch.eye(width, dtype=torch.float64)
    system = torch.cat([old, keep_weight**0.5 * kept, ridge**0.5 * eye])
    wanted = torch.cat([new @ weight.T, keep_weight**0.5 * kept @ weight.T, ridge**0.5 * weight.T])
    expected = torch.linalg.lstsq(system, wanted, driver="gels").solution.T
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_nothing_changes_where_nothing_is_to_change():
    old = rows(3, 5, 0)
    assert not edit(old, old, rows(4, 5, 1), keep_weight=1.0, ridge=0.5).any()


def seen(network, condition):
    """What the keys and values of every cross-attention are for a condition, by a hook in the running network."""
    found, hooks = {}, []
    for name, module in network.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            hooks.append(module.register_forward_hook(lambda _, __, out, name=name: found.update({name: out.detach()})))
    words = condition["encoder_hidden_states"].to(torch.float32)
    further = {name: value for name, value in condition.items() if name == "encoder_attention_mask"}
    with torch.no_grad():
        added = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}} if further else {}
        network(
            torch.zeros(len(words), 4, 8, 8),
            encoder_hidden_states=words,
            timestep=torch.full((len(words),), 3),
            **further,
            **added,
        )
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("family", ["stable_diffusion", "pixart"])
def test_the_edited_model_reads_the_prompt_as_the_other_one(family, tmp_path):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    pipeline = getattr(tiny_pipelines, family)()
    pipeline.prompts = ("a dog", "cat")
    if family == "stable_diffusion":
        pipeline.tokenizer.model_max_length = 8  # fewer tokens than dimensions, so that the minimum is 0
    made = unlearn(
        pipeline, UCE(ridge=1e-6, keep_weight=0.0), forget_prompt="cat", instead="fox", folder=tmp_path / "run", **QUICK
    )
    before, after, model = network_of(pipeline), network_of(made.pipeline), adapt(pipeline)
    cat, fox = model.condition(["cat"]), model.condition(["fox"])
    shown = cat.get("encoder_attention_mask", torch.ones(1, cat["encoder_hidden_states"].shape[1])).bool()
    wanted, found, untouched = seen(before, fox), seen(after, cat), seen(before, cat)
    for name, value in wanted.items():
        distance = (found[name][shown] - value[shown]).norm()
        assert distance < 0.05 * (untouched[name][shown] - value[shown]).norm(), name
    moved = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert moved == {f"{name}.weight" for name in wanted}
    assert made.plan.train == "cross-attention-kv" and made.training.last["observed"]["moved"] > 0
    assert (tmp_path / "run" / "log.jsonl").read_text().count("\n") == 1


def network_of(pipeline):
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def test_without_a_substitute_it_leads_to_the_empty_prompt_and_not_to_zeros():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    plan = planned(tiny_pipelines.sdxl(), "uce", forget_prompt="cat", keep_prompts=["a dog"], sampler=QUICK["sampler"])
    found = conditions(plan)["substitute"]["encoder_hidden_states"]
    empty, null = (plan.original.condition([each])["encoder_hidden_states"] for each in ("", None))
    assert torch.equal(found, empty) and not null.any() and found.any()


def test_beyond_the_end_of_a_shorter_substitute_its_last_token_stands():
    words = torch.arange(8.0).view(1, 4, 2)
    long, short = ({"encoder_hidden_states": words + k, "encoder_attention_mask": mask} for k, mask in (
        (0, torch.tensor([[1, 1, 1, 0]])), (100, torch.tensor([[1, 1, 0, 0]])),
    ))  # fmt: skip
    old, new = _tokens(torch.nn.Identity(), long, like=short)
    assert old.tolist() == words[0, :3].tolist()
    assert new.tolist() == (words[0, [0, 1, 1]] + 100).tolist()


def test_prompts_to_keep_are_held():
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    changes = []
    for keep_weight in (0.0, 100.0):
        pipeline = tiny_pipelines.stable_diffusion()
        made = unlearn(pipeline, "uce", keep_weight=keep_weight, forget_prompt="cat", keep_prompts=["a dog"], **QUICK)
        dog = adapt(pipeline).condition(["a dog"])
        before, after = seen(pipeline.unet, dog), seen(made.pipeline.unet, dog)
        changes.append(sum(float((after[name] - value).norm()) for name, value in before.items()))
    assert changes[1] < 0.2 * changes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 50}, "steps: got 50, but the method uce is solved in closed form; leave it out"),
        ({"lr_schedule": "cosine"}, "lr_schedule: got cosine, but the method uce is solved in closed form"),
        ({"mixed_precision": "bf16"}, "mixed_precision: got bf16, but the method uce is solved in closed form"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps: got 4, but the method uce"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing: got True, but the method uce"),
        ({"checkpointing_steps": 5}, "checkpointing_steps: got 5, but the method uce"),
        ({"train": "lora:2"}, "train: got lora:2, but the method uce changes cross-attention-kv alone"),
        ({"instead": "cat"}, "instead: got 'cat', which names what is to be forgotten"),
    ],
)
def test_what_has_no_effect_is_refused(options, message):
    pytest.importorskip("transformers", reason="tiny text encoders are made with transformers")
    with pytest.raises(InputError, match=message):
        unlearn(tiny_pipelines.stable_diffusion(), "uce", forget_prompt="cat", **QUICK | options)


def test_a_model_without_cross_attention_is_refused(make_pipeline):
    with pytest.raises(
        InputError, match="uce: this UNet2DModel has no cross-attention whose keys and values depend on the words"
    ):
        unlearn(make_pipeline(num_class_embeds=3), "uce", forget_label=1, **QUICK)
