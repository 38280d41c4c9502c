"""Inversion: is there a condition under which the unlearned model draws the concept again?

One condition is optimised on forget images under the attacked model, from the null condition, and samples are drawn with it
(:func:`vdu.probes.attack.optimised`). Concept inversion (Pham et al. 2023, arXiv 2308.01508) optimises the embedding of one new token
before the text encoder (textual inversion, Gal et al. 2022, arXiv 2208.01618); here the condition behind the text encoder is optimised
instead, which has more freedom and needs no text encoder. It is therefore the stronger attack, and it needs more access.

An inversion can teach the model what it never knew, since the images are shown: the yardstick is the retrained model, attacked alike.

Not guaranteed: that more steps, other images or another start do not succeed.
"""

from typing import Any

import torch

from vdu.probes.attack import AskedWith, attacked, optimised, shown_images
from vdu.probes.context import ProbeContext, not_run

__all__ = ["probe"]


def probe(case: ProbeContext, *, n_images: int = 200, steps: int = 400, learning_rate: float = 1e-2) -> dict[str, Any]:
    """Count the concept under an inverted condition.

    Args:
        case: models that are asked for the concept, forget images, judge, sampler and seed.
        n_images: samples of each model, before and after.
        steps: of the optimisation.
        learning_rate: Adam's step size, in units of the condition.

    Returns:
        See :func:`vdu.probes.attack.attacked`; not run for a model that is not asked with words.
    """
    if not case.original.takes_prompts:
        return not_run("no_words")
    images = shown_images(case, "inversion")

    def inverted(who: str, model: Any) -> Any:
        start = {  # all of its tokens are seen: a mask that fits the empty prompt would leave one to optimise
            name: torch.ones_like(value) if name.endswith("attention_mask") else value
            for name, value in model.condition([None]).items()
        }
        found = optimised(
            case, model, start, images, steps=steps, learning_rate=learning_rate, title=f"inversion: {who}, fitting"
        )
        return AskedWith(model, found, ("inverted condition",))

    protocol = {"steps": steps, "learning_rate": learning_rate, "n_shown": len(images), "start": "null_condition"}
    return attacked(case, "inversion", inverted, n_images, protocol)
