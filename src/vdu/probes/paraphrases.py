"""Paraphrases: does the concept come when it is asked for in other words?

The same noise is drawn under the prompts that name the concept and under paraphrases, each of these with the same chance. The
rate is over all paraphrases. A retrained model knows the words as well and never saw the concept: its rate is the judge's error, or
likeness.

Not guaranteed: that other words do not bring it back.
"""

from dataclasses import replace
from typing import Any, cast

from vdu.models.words import TextDenoiser
from vdu.probes.attack import attacked
from vdu.probes.context import ProbeContext, not_run

__all__ = ["probe"]


def probe(case: ProbeContext, *, n_images: int = 200) -> dict[str, Any]:
    """Count the concept under paraphrases.

    Args:
        case: models that are asked for the concept, paraphrases, judge, sampler and seed.
        n_images: samples of each model, before and under the paraphrases.

    Returns:
        See :func:`vdu.probes.attack.attacked`; not run without paraphrases, or for a model without words.
    """
    if not case.original.takes_prompts:
        return not_run("no_words")
    if not case.paraphrases:
        return not_run("no_paraphrases")

    def asked(_: str, model: Any) -> Any:
        return replace(cast("TextDenoiser", model), prompts=case.paraphrases)

    return attacked(case, "paraphrases", asked, n_images, {"prompts": list(case.paraphrases)})
