"""The codes of the records as English: image sets, judges, notes, warnings, reasons, protocols and the stopping rule.

A code that is not known is shown as it is, so that nothing a run recorded is lost.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vdu.reporting.formatting import flat, percent, percent_at_most

__all__ = [
    "ABOUT_MODELS",
    "attack_text",
    "guarantee_text",
    "hidden_text",
    "images_text",
    "not_run_text",
    "protocol_facts",
    "row_note",
    "source_text",
    "stopping_text",
    "warning_text",
]

ABOUT_MODELS = ("same_weights", "different_options", "different_text_encoder", "different_schedules")
"""Warnings that the models themselves, and not what they drew, give reason for; a report begins with them."""
_IMAGES = {
    "forget_train": "forgotten images",
    "forget_held_out": "held-out images of the forgotten class",
    "retain_train": "kept images, from training",
    "retain_held_out": "kept images, held out",
    "generated_rest": "kept images, generated",
}
_HIDDEN = {"lower_half": "lower half", "right_half": "right half"}
_SOURCES = {"fallback": "fallback classifier"}
_ATTACKS = {"loss": "loss", "pia": "proximal initialisation (PIA)"}
_NOTES = {
    "real_split": "two disjoint sets of real images",
    "real_split_small": (
        "two disjoint sets of {n_first:,} and {n_second:,} real images: fewer than the {n_images:,} of the rows beside it, so its "
        "distance is larger than it would be with as many images"
    ),
    "filtered_by_judge": "the original's samples without those that the classifier takes for unwanted, drawn until N remain",
    "filtered_by_second_judge": (
        "the original's samples without those that the second classifier takes for unwanted, drawn until N remain"
    ),
    "retrained": "never saw the class: what looks unwanted here is the classifier's error, or likeness",
}
_NOT_RUN = {
    "different_image_shapes": "The unlearned model cannot finish the original's chains: the two make images of different shapes.",
    "different_predictions": (
        "The unlearned model cannot finish the original's chains: the two networks predict different quantities, or only one "
        "has a learned variance."
    ),
    "different_noise_schedules": "The unlearned model cannot finish the original's chains: the two have different noise schedules.",
    "no_forget_samples": (
        "The classifier takes none of the original's {n_drawn} samples for unwanted, and the test begins with such samples."
    ),
    "no_likelihood_bound": "The reverse chain of a model has no bound: {error}",
    "too_few_images": "No image set has at least two images. Give more images of the forget set, or real ones.",
    "no_held_out_images": (
        "There are no held-out images of the forget class. Give real images of it that the model was not trained on."
    ),
    "too_few_members": (
        "Members: {n_members}, held-out images of the forget class: {n_held_out}. The attacks need at least 2 of each. Give more "
        "images."
    ),
    "evaluation_ended": "The evaluation ended before this probe did. Run `vdu evaluate` again.",
    "latent_model": "This is a latent model; the measure is defined on pixels.",
    "no_words": "The models are not asked in words.",
    "no_paraphrases": "There are no paraphrases. Name some in a file of prompt sets (`--prompts`).",
    "no_retrained_model": "No retrained model was given. Train one without the class and name it (`--retrained`).",
    "diverged": "It diverged: {error}",
    "failed": "It failed: {error}",
    "interrupted": "The evaluation was interrupted. Run `vdu evaluate` again.",
}
_KEYS = {
    "learning_rate_is": "learning rate, chosen as",
    "n_shown": "images that are shown",
    "n_prompts": "prompts",
    "forget_images": "forget images",
    "benign_images": "benign images",
    "evaluation_sampler": "ordinary sampler",
    "impossible_samplers": "samplers left out",
    "control_reason": "why this control",
    "n_drawn": "original's samples looked through",
    "n_forget_shown_whole": "look unwanted with nothing hidden",
    "n_forget_lower_half_black": "look unwanted with the lower half black",
    "n_forget_right_half_black": "look unwanted with the right half black",
    "n_samples": "samples of each model",
    "n_images": "images",
    "n_draws": "noises drawn for each image",
    "n_levels": "noise levels",
    "pia_row": "timestep of the proximal initialisation",
    "pia_norm": "its norm",
    "floor_u_fid": "distance between two sets of samples of the retrained model",
}
_VALUES = {
    ("optimiser", "adamw_constant_rate"): "Adam (AdamW without weight decay), constant rate, all weights",
    ("learning_rate_is", "default"): "that of an ordinary fine-tuning",
    ("learning_rate_is", "given"): "the caller's",
    ("batches", "same_for_every_model"): (
        "each image once in a round; the same images, noise and noise levels for every model"
    ),
    ("noise", "own_seeds_paired"): "seeds of this probe's own; image i of both models has the same",
    ("noise", "one_draw_per_image_and_level"): "one draw per image and level, the same for every model",
    ("start", "null_condition"): "the null condition",
    ("control", "none"): "none: no retrained model was given",
    (
        "control_reason",
        "never_knew_the_class",
    ): "it never knew the class: what it finishes as the class was in the image",
    (
        "control_reason",
        "no_retrained_model",
    ): "no retrained model was given; the original's count is all, by construction",
    ("control_reason", "different_image_shapes"): "the retrained model cannot finish the chains: other image shape",
    (
        "control_reason",
        "different_predictions",
    ): "the retrained model cannot finish the chains: other kind of prediction",
    (
        "control_reason",
        "different_noise_schedules",
    ): "the retrained model cannot finish the chains: other noise schedule",
    ("method", "replacement"): "replacement at every step, no resampling (Lugmayr et al. 2022)",
    ("interval", "normal_over_images"): "normal, 95 %, over images; differences paired by image",
    ("interval", "bootstrap_percentiles"): "bootstrap percentiles, 95 %, resamples of members and of held-out images",
}


def images_text(code: str) -> str:
    """A set of images, as the page names it."""
    return _IMAGES.get(code, code)


def hidden_text(code: str) -> str:
    """A hidden part of an image, as the page names it."""
    return _HIDDEN.get(code, code)


def attack_text(code: str) -> str:
    """A membership attack, as the page names it."""
    return _ATTACKS.get(code, code)


def source_text(judge: Mapping[str, Any]) -> str:
    """Where a judge comes from."""
    return _SOURCES.get(judge["source"], str(judge["source"]))


def row_note(row: Mapping[str, Any]) -> str:
    """The note beside a row of the reference table; empty if it has none."""
    code = row.get("note_code")
    if code not in _NOTES:
        return str(code) if code else row["note"]
    try:
        return _NOTES[code].format(**row.get("note_details", {}))
    except (KeyError, ValueError):  # a number that the sentence needs is not there
        return str(code)


def warning_text(warning: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """A warning of the evaluation as a sentence.

    Args:
        warning: has a ``code``, and the ``message`` of a Python warning.
        metrics: the ``metrics.json`` that it is from.

    Returns:
        The sentence.
    """
    code = warning["code"]
    if code == "few_forget_images":
        count = next((row["forget_count"] for row in metrics["rows"] if row["name"] == "original"), None)
        made = "few images" if count is None else f"only {count} images"
        return f"The original made {made} of the forget class: the interval of the share gone is wide."
    if code == "unwanted_not_seen":
        return (
            f"The classifier finds what was to be forgotten in only {warning['n_seen']} of the {warning['n_images']} {warning['set']} "
            "images: perhaps they show something else, or it does not suit them."
        )
    if code == "reference_trained_on":
        return (
            f"{warning['n_shared']} of the {warning['n_images']} reference images were retained images of the run: a distance to them is "
            "too small."
        )
    if code == "reference_forgotten_before":
        return (
            f"The model before had been made to forget {warning['classes']}, and the reference images have no labels to leave it out: if "
            "they hold some of it, every distance to them is too large."
        )
    options = warning.get("options")
    if code == "different_options":
        return (
            f"The model {warning['model']} is not drawn from like the model before: {options} differ. What differs in their images may "
            "come from these options, and not from the weights."
        )
    if code == "different_text_encoder":
        return f"The model {warning['model']} has another text encoder than the model before: it reads prompts in another way."
    if code == "same_weights" and options:
        return (
            "The model after has the same weights as the model before: nothing was forgotten, and whatever differs in their images comes "
            f"from other options ({options})."
        )
    texts = {
        "fallback_judge": (
            "The classifier is a fallback, trained on the forget set against generated samples; its false-positive rate is an estimate."
        ),
        "same_weights": "The model after has the same weights as the model before: nothing was changed.",
        "different_schedules": (
            "The two models have different noise schedules or predict different quantities: images from the same noise are not "
            "expected to resemble each other."
        ),
        "no_second_judge": "There is no second classifier: the one that gives the features also filters the filtered original.",
    }
    return texts.get(code, str(warning.get("message", code)))


def not_run_text(result: Mapping[str, Any]) -> str:
    """Why a probe was not run; the recorded sentence where an older version wrote one.

    Args:
        result: the probe's result, with the status "not run".

    Returns:
        One or two sentences.
    """
    if "reason" in result:
        return str(result["reason"])
    code = result["code"]
    try:
        return str(_NOT_RUN.get(code, code)).format(**{key: each for key, each in result.items() if key != "code"})
    except (KeyError, IndexError):  # a value that the sentence needs is not there
        return code


def protocol_facts(protocol: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A probe's protocol as names and texts, in its order.

    Args:
        protocol: identifiers with plain values.

    Returns:
        The pairs.
    """
    found = []
    for key, value in protocol.items():
        if value in ([], "", None) or key == "seed":  # nothing to show; derived from the evaluation's seed
            continue
        if isinstance(value, float):
            shown: Any = f"{value:.4g}"
        elif isinstance(value, str):
            shown = _VALUES.get((key, value), images_text(value) if key == "images" else value)
        elif key == "images" and isinstance(value, dict):
            shown = {images_text(name): n for name, n in value.items()}
        elif key == "left_out" and isinstance(value, list):
            shown = [_left_out(each) for each in value]
        elif isinstance(value, dict) and len(set(map(str, value.values()))) == 1:  # all models have the same
            shown = next(iter(value.values()))
        else:
            shown = value
        found += flat(shown, _KEYS.get(key, key.replace("_", " ")))
    return found


def _left_out(each: Any) -> str:
    """Images that a probe had too few of: a set's code, or {"n_shown", "shown", "n_available"}; old records have text."""
    if isinstance(each, dict) and {"n_shown", "shown", "n_available"} <= set(each):
        return f"{each['n_shown']} {each['shown']} (there are {each['n_available']})"
    return images_text(str(each))


def stopping_text(stopping: Mapping[str, Any], strength: Sequence[str] = (), *, in_words: bool = False) -> str:
    """How the stopping rule ended a run, as a sentence without its full stop.

    Args:
        stopping: the fields of :class:`vdu.replay.stopping.Stopping`; of older versions without "bound", or "text" alone.
        strength: options whose larger values forget more; named if the aim was missed.
        in_words: whether a concept was forgotten by its prompt; then what takes its place is named too.

    Returns:
        The sentence.
    """
    if "text" in stopping:
        return str(stopping["text"])
    missed = stopping["reason"] == "all_steps"
    if stopping.get("bound") is None:
        found = (
            f"of {stopping['n_seeds']} generated samples that were like the forget set, {stopping['n_left']} still are after "
            f"{stopping['step']} steps, drawn again from the same noise; the aim was {stopping['aim']} or fewer"
        )
        return f"{found}; all steps were taken" if missed else found
    found = f"{guarantee_text(stopping)} ({stopping['n_left']} of {stopping['n_seeds']} held-out seeds after {stopping['step']} steps)"
    aim = f"the aim of at most {percent_at_most(100 * stopping['aim_bound'])}"
    if not missed:
        return f"{found}; {aim} was reached"
    larger = f", and so does a larger {' or '.join(strength)} (--option)" if strength else ""
    other = "; a higher --learning-rate or another --instead may" if in_words else ""
    return f"{found}; {aim} was not reached, and all steps were taken: more --steps forget more{larger}{other}"


def guarantee_text(stopping: Mapping[str, Any]) -> str:
    """What a run states about the model's own unwanted seeds, without a full stop; empty without a bound (older versions).

    Args:
        stopping: as for :func:`stopping_text`.

    Returns:
        The statement.

    Examples:
        >>> guarantee_text({"bound": 0.05, "confidence": 0.95}).replace("\u202f", " ")
        "at most 5.0 % of the model's own unwanted seeds remain, 95 % confidence, by the run's own classifier"
        >>> guarantee_text({"bound": 0.0421, "confidence": 0.9375}).replace("\u202f", " ")[:71]
        "at most 4.3 % of the model's own unwanted seeds remain, 93 % confidence"
    """
    if stopping.get("bound") is None:
        return ""
    most, sure = percent_at_most(100 * stopping["bound"]), percent(math.floor(100 * stopping["confidence"] + 1e-9), 0)
    return f"at most {most} of the model's own unwanted seeds remain, {sure} confidence, by the run's own classifier"
