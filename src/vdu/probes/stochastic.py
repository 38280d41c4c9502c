"""Stochastic re-check: is the class still gone under samplers with more or less noise, and from other noise?

A deterministic or short chain visits few states, and an unlearned model may avoid the class on those alone; a model that was trained
and stopped with one sampler may show it under another. Both models are therefore sampled again, from seeds that the rest of the
evaluation does not use, with

    ddim, η = 0      ddim, η = 0.5      ddim, η = 1      ddpm (ancestral: every step draws its noise)

without the sampler of the evaluation itself, and of flow-matching models without η, which they do not have. Steps, spacing and
clipping are the evaluation's. Sample i of both models has the same seed, and PUL is the paired one of :mod:`vdu.metrics.pul`.

If the judge predicts none of the original's samples as forget, PUL is undefined: the row has ``"pul": None`` and both counts.

A poor sampler generates images on which the judge errs. The retrained model, which never saw the class, is therefore sampled too;
its forget predictions measure this error.

Not guaranteed: that other samplers, more steps or guidance do not find the class. PUL does not measure image quality, and a poor
sampler can make the class rare in both models.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.rng import generator
from vdu.diffusion.sampling import Sampler
from vdu.metrics.pul import percentage_unlearned
from vdu.probes.context import ProbeContext
from vdu.probes.draws import draw, image_seeds, judged, measured, sampler_words

__all__ = ["other_samplers", "probe"]

SAMPLERS = (("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("ddpm", 0.0))


def other_samplers(sampler: Sampler, *, flow: bool = False) -> list[Sampler]:
    """DDIM with increasing noise, and ancestral sampling, otherwise like a given sampler and without that sampler itself.

    Args:
        sampler: the evaluation's own protocol.
        flow: whether the models match flows: these have no η.

    Returns:
        Three protocols; for flow matching one.

    Examples:
        >>> [(each.scheduler, each.eta) for each in other_samplers(Sampler("ddpm", steps=20))]
        [('ddim', 0.0), ('ddim', 0.5), ('ddim', 1.0)]
    """
    found = [replace(sampler, scheduler=scheduler, eta=eta) for scheduler, eta in SAMPLERS if not (flow and eta)]
    return [each for each in found if each != sampler]


def probe(case: ProbeContext, *, n_images: int = 500, samplers: Sequence[Sampler] | None = None) -> dict[str, Any]:
    """PUL under other samplers and other noise.

    Args:
        case: models, judge, sampler and seed.
        n_images: samples of each model under each sampler.
        samplers: protocols to use instead of :func:`other_samplers`.

    Returns:
        ``rows``: one per sampler that every model's schedule supports (the protocol says why others are missing), with the
        retrained model's count if there is one (``control_count``).
    """
    started = time.monotonic()
    flow = any(model.schedule.scaling == "flow" for model in case.models.values())
    wanted = other_samplers(case.sampler, flow=flow) if samplers is None else list(samplers)
    tried, left_out = _possible(case, wanted)
    seeds = image_seeds(case.seed, "stochastic", n_images)
    rows = []
    for sampler in tried:
        name = f"{sampler.scheduler} {sampler.eta:g}"
        calls = {
            who: judged(case, draw(case, model, seeds, f"stochastic: {name}, {who}", sampler))
            for who, model in case.models.items()
        }
        eta = sampler.eta if sampler.scheduler == "ddim" else None
        row = {"sampler": sampler.scheduler, "eta": eta, "n_images": n_images}
        if "retrained" in calls:
            row["control_count"] = int(calls["retrained"].sum())
        rows.append(row | _pul(calls["original"], calls["unlearned"], case.seed, name))
    protocol = {
        "noise": "own_seeds_paired",
        "evaluation_sampler": sampler_words(case.sampler),
        "samplers": [sampler_words(each) for each in tried],
        **({"impossible_samplers": left_out} if left_out else {}),
    }
    return measured(started, protocol, rows=rows)


def _possible(case: ProbeContext, wanted: Sequence[Sampler]) -> tuple[list[Sampler], list[str]]:
    """The samplers that every model's schedule supports, and why the others do not; an ``InputError`` if there is none."""
    tried, left_out = [], []
    for sampler in wanted:
        try:
            for model in case.models.values():
                sampler.make(model)
            tried.append(sampler)
        except InputError as error:
            left_out.append(f"{sampler_words(sampler)}: {error}")
    if not tried:
        raise InputError(f"samplers: none is possible with these models: {' '.join(left_out)}")
    return tried, left_out


def _pul(original: Tensor, unlearned: Tensor, seed: int, name: str) -> dict[str, Any]:
    n_original, n_unlearned = int(original.sum()), int(unlearned.sum())
    if n_original == 0:
        return {"pul": None, "n_original": 0, "n_unlearned": n_unlearned}
    found = percentage_unlearned(original, unlearned, generator=generator(seed, "stochastic", name, "bootstrap"))
    limits = {"value": found.value, "low": found.low, "high": found.high}
    return {"pul": limits | {"n_original": n_original, "n_unlearned": n_unlearned}}
