"""Where a number becomes a word: the named thresholds of the verdicts, as values and as sentences for the page.

They are reading aids of our own, printed with every report and written to ``evidence.json``; they are no standard. The
rules that use them are in the docstrings of the modules of :mod:`vdu.reporting.findings`. PUL and its ceiling are in percent, rates
in [0, 1].
"""

from types import MappingProxyType

from vdu.reporting.formatting import percent

__all__ = ["SENTENCES", "THRESHOLDS"]

THRESHOLDS = MappingProxyType({
    "weak_ceiling_percent": 80.0,
    "few_unwanted_images": 20,
    "near_ceiling_share": 0.8,
    "mostly_gone_percent": 50.0,
    "damage_factor": 2.0,
    "moved_factor": 2.0,
    "starved_expected_images": 20.0,
    "starved_share": 0.5,
    "class_shift_p": 0.05,
    "lead_margin_share": 0.25,
    "return_share_of_original": 0.5,
    "early_handed_share": 0.25,
    "resample_margin_percent": 10.0,
    "likelihood_margin_share": 0.1,
    "likelihood_half_width": 0.05,
    "membership_least_images": 30,
    "membership_half_width": 0.06,
    "membership_tail": 0.025,
    "doubted_share_of_original": 0.5,
    "rest_likelihood_bits": 0.02,
    "many_images": 1000,
    "many_unwanted_images": 50,
})
_T = THRESHOLDS


def _percent(name: str) -> str:
    return percent(100 * _T[name], 0)


SENTENCES = (
    f"Gone or mostly gone (✓): the interval of the share gone (PUL) reaches the ceiling and starts at {_percent('near_ceiling_share')} of "
    f"it or above. More than half gone: it starts at {percent(_T['mostly_gone_percent'], 0)} or above. Reduced: it starts above 0. No "
    "evidence: it contains 0. The classifiers disagree: the second one's interval lies below the first one's.",
    f"The ceiling is the lower of the classifier's own and 100 · (1 − r/o), with r and o the unwanted images of the retrained "
    f"model and of the original. The retrained model is doubted, and nothing concluded from it, where the interval of its "
    f"rate starts above the classifier's rate of false alarms and ends at {_percent('doubted_share_of_original')} of the original's "
    "rate or above.",
    "With a fallback classifier the first answer is never ✓; where its features also measure u-FID, nor is the second.",
    f"No verdict below {_T['few_unwanted_images']} unwanted images of the original, or under a ceiling of "
    f"{percent(_T['weak_ceiling_percent'], 0)}.",
    "Measurably worse: the interval of u-FID lies above the filtered original's. Damaged: "
    f"it does, and the value is {_T['damage_factor']:.0f} × as large or more; or a kept class of "
    f"{_T['starved_expected_images']:.0f} or more expected images lost over half, measurably.",
    f"No damage detected: the intervals overlap, and the unlearned one ends at {_T['damage_factor']:.0f} × the "
    "filtered value or below. A class has become rarer or more frequent: of the noises that gave a kept class, more gave it before "
    f"than now, or fewer (exact sign test of the changed pairs, p < {_T['class_shift_p']:g} with Holm's correction over the kept "
    "classes). A rarer one is damage; of more frequent ones alone, the mix of classes has shifted. Without pairs, it has where the "
    "distance of the kept classes' histogram from the expected one is above the 95 % point of chance.",
    f"Kept images are less likely: image by image they cost more bits/dim than in the retrained model, by an interval that "
    f"starts above {_T['rest_likelihood_bits']:.2f}. Predictions moved: at some noise level those on kept images are "
    f"{_T['moved_factor']:.0f} × as far from the retrained model's as the original's are, intervals apart. Either keeps the "
    "second answer from ✓.",
    "Beside a retrained model: it comes back where, at some point, the unlearned "
    "model's interval lies wholly above the retrained model's. Not measurably more or faster: it does so nowhere, and at every point "
    f"a lead of more than {100 * _T['lead_margin_share']:.0f} percentage points is excluded (95 % interval of the difference); with "
    "another sampler, in inpainting and in attacks on the condition, of more than half of the original's own rate there, if that is "
    "less. Otherwise undecided. So is relearning where the rate rises above the model's own start and the retrained model's does not "
    "rise above its own; or where no rise is seen, and one to half of the original's own rate is not excluded.",
    "Without a retrained model: it can be brought back where, at some point, the interval of the rate lies at or above "
    f"{_percent('return_share_of_original')} of the original's own rate; it stays below half where every point lies below; it stays away "
    "where, besides, it does not rise above the model's own start (95 % interval of the difference). Completion is read this way only "
    f"where the original did {_percent('early_handed_share')} of the chain or less: later the picture is already there.",
    "Fine-tuning on other images: any rise above the model's own start (intervals apart) counts as coming back, unless "
    "a retrained model rises as well.",
    "Hidden by the sampler: the share gone with another sampler has an interval wholly below the ordinary one. It holds where it does "
    f"not, and starts at most {_T['resample_margin_percent']:.0f} percentage points lower. Otherwise undecided, as with a sampler "
    "with which the original makes none.",
    "All attempts together: one that comes back decides. The third answer is “no” (✓) only if relearning ran, does not lift the rate "
    "above its own start, and no test is undecided; it is “yes” without a verdict (•) where relearning lifts the rate and a model "
    "that never saw it does the same: its rate rises too.",
    f"As likely as in a model that never saw them: image by image the difference in bits/dim may be 0, or is "
    f"{_percent('likelihood_margin_share')} or less of the original's own; undecided if its interval is wider than "
    f"± {_T['likelihood_half_width']:g} or reaches the original's own. Membership is no better than chance if no attack's "
    "interval leaves AUC 0.5 (and, beside a retrained model, that model's interval), and none finds more members at 1 % false alarms "
    f"than chance does (exact permutation test, one-sided p ≤ {_T['membership_tail']:g}; beside a retrained model its interval must "
    f"leave that model's, too); undecided below {_T['membership_least_images']} images on either side or if an interval is wider than "
    f"± {_T['membership_half_width']:g}. Nearer to a retrained model counts only with more samples than features.",
    f"Trust is ✓ only with two classifiers that agree, of which the first is no fallback, {_T['many_images']:,} images or "
    f"more per model, {_T['many_unwanted_images']} unwanted ones or more, and a retrained model.",
)
