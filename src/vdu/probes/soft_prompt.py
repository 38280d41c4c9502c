"""Soft prompts: does every prompt that names the concept have a neighbour under which the unlearned model draws it?

The conditions of all prompts that name the concept are optimised on forget images under the attacked model, each from its own
(:func:`vdu.probes.attack.optimised`), and each prompt is drawn with the condition found for it. The loss is that of UnlearnDiffAtk
(Zhang et al. 2023, arXiv 2310.11868), which optimises tokens in front of a prompt; here the whole condition behind the text encoder is
optimised, which has more freedom. The rate is over ALL prompts, also those that drew the concept before the attack.

Not guaranteed: that more steps or other images do not succeed.
"""

from typing import Any

from vdu.probes.attack import AskedWith, attacked, optimised, shown_images
from vdu.probes.context import ProbeContext, not_run

__all__ = ["probe"]


def probe(case: ProbeContext, *, n_images: int = 200, steps: int = 100, learning_rate: float = 1e-2) -> dict[str, Any]:
    """Count the concept under optimised conditions of the prompts that name it.

    Args:
        case: models that are asked for the concept, forget images, judge, sampler and seed.
        n_images: samples of each model, before and after, over all prompts.
        steps: of the optimisation; every step has at least one image for every prompt.
        learning_rate: Adam's step size, in units of the condition.

    Returns:
        See :func:`vdu.probes.attack.attacked`; not run for a model that is not asked with words.
    """
    if not case.original.takes_prompts:
        return not_run("no_words")
    images, prompts = shown_images(case, "soft prompt"), case.original.class_names

    def softened(who: str, model: Any) -> Any:
        start = model.condition(list(prompts))
        found = optimised(
            case, model, start, images, steps=steps, learning_rate=learning_rate, title=f"soft prompts: {who}, fitting"
        )
        return AskedWith(model, found, prompts)

    protocol = {"steps": steps, "learning_rate": learning_rate, "n_shown": len(images), "n_prompts": len(prompts)}
    return attacked(case, "soft prompt", softened, n_images, protocol)
