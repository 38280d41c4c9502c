"""The average that an unlearning run gives, from the raw weights of its checkpoints."""

import torch
from safetensors.torch import load_file

from vdu.data.images import ImageSet
from vdu.methods.vdu import gradient_ascent
from vdu.unlearning.unlearn import unlearn


def test_the_average_rises_over_the_last_third_of_the_steps(make_pipeline, tmp_path):
    """decay_k = min(decay, (1 + k) / (4 + k)), so that later steps weigh more."""
    pipeline = make_pipeline()
    images = ImageSet(torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))
    result = unlearn(
        pipeline, gradient_ascent(), forget=images, steps=6, batch_size=4, learning_rate=1e-3, ema_decay=0.8,
        checkpointing_steps=1, checkpoints_total_limit=None, folder=tmp_path, generator=torch.Generator().manual_seed(0),
        progress=None,
    )  # fmt: skip
    average = {name: value.detach().clone() for name, value in pipeline.unet.named_parameters()}
    for k in range(6):
        raw = load_file(tmp_path / "checkpoints" / f"checkpoint-{k + 1}" / "model.safetensors")
        decay = min(0.8, (1 + k) / (4 + k))
        average = {name: decay * value + (1 - decay) * raw[name] for name, value in average.items()}
    for name, value in result.pipeline.unet.named_parameters():
        torch.testing.assert_close(value, average[name], rtol=0.0, atol=1e-6)  # the weights move by 0.003
