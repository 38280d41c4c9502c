"""The third answer: does it come back? Four probes are read one by one, then together.

What would be good? A model that NEVER saw the class can also learn it (relearning), finish a picture that somebody else
began (completion) and fill in a hidden half (inpainting). "It can be made again" is therefore no evidence by itself; "it
comes back where a model that never saw it does not" is. So:

With a retrained model (its curve or rows are in the probe), per point the two shares u (unlearned) and r (retrained):
    comes back                  somewhere u's interval lies wholly above r's. Intervals apart are a stricter test than a
                                5 % one, which is meant: a probe has many points, and one of them may stray by chance
    no more than retrained      nowhere apart, and everywhere the 95 % interval of u − r ends at 25 percentage points or
                                below: without this, a probe of ten images would "find nothing" and look good
    undecided                   otherwise
Without one, against the original's own share o, and the limit is stated:
    comes back                  somewhere the interval of u starts at o/2 or above. The level is "mixed", not "bad": how
                                much of it is residue and how much a lesson cannot be told
    stays below half            everywhere the interval of u ends below o/2 ("mixed")
    stays away                  so it does, and nowhere the interval of u − (the model's own start) lies above 0
    undecided                   otherwise, or if o is not known
Completion without a retrained model is read only where the original did a quarter of the chain or less: later the picture
is already there, and finishing it shows nothing. Fine-tuning on OTHER images ("benign") teaches nothing of the class, so
there any rise above the model's own start (intervals apart) is bad, unless the retrained model rises as well.
Stochastic re-check: with a retrained model as above, sampler by sampler; a sampler that serves all models badly makes images on
which the judge errs, in the retrained model too. Without one: PUL with another sampler, its interval wholly below the
ordinary one's → the ordinary sampler hid it (bad below 50 %, else mixed); not so, and it starts at most 10 percentage points
below the ordinary one → holds; else undecided.

Together: what was not gone in the first place cannot come back (unknown). One bad part makes the answer bad, one mixed part
mixed. If all that ran is good, it is good only where relearning was among it: the other probes are weaker. Undecided parts
leave it "mixed" if others are good and "unknown" if none is.

NOT guaranteed: that another attack, more steps, more images or another learning rate would not bring it back.
"""

from collections.abc import Iterable
from typing import Any

from vdu.report.collect import ReportData
from vdu.report.control import retrained_doubt, wilson
from vdu.report.shares import Share, difference, measured, why_not
from vdu.report.thresholds import THRESHOLDS
from vdu.report.verdict import Finding
from vdu.report.words import number, percent

__all__ = ["PARTS", "comeback_parts", "does_it_come_back"]

PARTS = {
    "relearning": "relearning",
    "stochastic": "another sampler",
    "completion": "completion",
    "inpainting": "inpainting",
}
_ALONE = "Without a retrained model: what a model that never saw them would do was not measured (`--retrained`)."
_BELOW = "Stays below half of the original's share"
_MAYBE = "Not asked for (`vdu evaluate --suite quick`)."


def comeback_parts(data: ReportData) -> dict[str, Finding]:
    """What each probe says by itself; a probe that did not run has the level "unknown" and the title "Not tested".

    Args:
        data: the collected run.

    Returns:
        One finding for each name of ``PARTS``.
    """
    readers = {
        "relearning": _relearning,
        "stochastic": _stochastic,
        "completion": _completion,
        "inpainting": _inpainting,
    }
    found = {}
    for name, read in readers.items():
        result = measured(data.metrics, name)
        reason = why_not(data.metrics, name) or _MAYBE
        found[name] = (
            Finding("unknown", "Not tested", "not tested", reason, ()) if result is None else read(data, result)
        )
    return found


def does_it_come_back(data: ReportData, gone: Finding) -> Finding:
    """Does it come back? All probes together.

    Args:
        data: the collected run.
        gone: the first answer; what is not gone cannot come back.

    Returns:
        The finding.
    """
    parts = {name: part for name, part in comeback_parts(data).items() if measured(data.metrics, name)}
    missing = [PARTS[name] for name in PARTS if name not in parts]
    if not parts:
        reasons = {why_not(data.metrics, name) for name in PARTS} - {None}
        text = "No attempt to bring it back was made." + "".join(f" {reason}" for reason in sorted(map(str, reasons)))
        limit = "Relearning, other samplers, completion and inpainting are all unknown."
        return Finding("unknown", "Not tested", "0 of 4 tests ran", text, (limit,))
    text = " ".join(
        f"{PARTS[name].capitalize()}: {part.title[0].lower()}{part.title[1:]} ({part.figure})."
        for name, part in parts.items()
    )
    untold = (f"Not tested: {', '.join(missing)}.",) if missing else ()
    limits = [*untold, *dict.fromkeys(limit for part in parts.values() for limit in part.limits)]
    limits.append("Other attacks, more steps or other learning rates may still bring it back.")
    if gone.level == "bad":
        return Finding("unknown", "It was not gone to begin with", "see the first answer", text, tuple(limits))
    level, title, told = _together(parts)
    if level == "unknown" and retrained_doubt(data):
        title = "Undecided: the retrained model may have seen it"
    risen = _risen_beside_retrained(data)
    if risen and "relearning" in parts and parts["relearning"].level == "good" and level in ("good", "mixed"):
        ours, theirs = risen
        said = f"omes back no faster than in a retrained model ({ours.value:.0%} against {theirs.value:.0%})"
        if level == "good":
            title = "C" + said
        elif title.startswith("No sign in"):
            title = "C" + said + ";" + title.partition(";")[2]
    figure = "; ".join(f"{PARTS[name]}: {parts[name].figure}" for name in told[:2])
    figure += f"; and {len(told) - 2} more" if len(told) > 2 else ""
    return Finding(level, title, figure, text, tuple(limits))


def _together(parts: dict[str, Finding]) -> tuple[str, str, list[str]]:
    """Return level, title and the parts that decided."""
    by_level = {level: [n for n, part in parts.items() if part.level == level] for level in ("bad", "mixed", "good")}
    undecided = [name for name, part in parts.items() if part.level == "unknown"]
    for level, start in (("bad", "Yes, by "), ("mixed", "Perhaps: ")):
        if by_level[level]:
            named = sorted(by_level[level], key=lambda name: parts[name].title == _BELOW)
            title = parts[named[0]].title
            if title == _BELOW:
                return level, title, named
            told = title[0].lower() + title[1:] if level == "mixed" else " and ".join(PARTS[name] for name in named)
            return level, start + told, named
    if not by_level["good"]:
        return "unknown", "Undecided: too few images to tell", undecided
    n = f"{len(by_level['good'])} of {len(PARTS)} tests"
    if undecided:
        return "mixed", f"No sign in {n}; {len(undecided)} undecided", by_level["good"] + undecided
    if "relearning" not in parts:
        return "mixed", f"No sign in {n}; relearning not tested", by_level["good"]
    return "good", f"No sign of it in {n}", by_level["good"]


def _relearning(data: ReportData, result: dict[str, Any]) -> Finding:
    curves = {(c["model"], c["shown"], c["n_shown"]): _points(c) for c in result["curves"]}
    mine = {key[1:]: points for key, points in curves.items() if key[0] == "unlearned"}
    theirs = {key[1:]: points for key, points in curves.items() if key[0] == "retrained"}
    for (shown, n), points in mine.items():
        start = points.get(min(points, default=0))
        control = None if retrained_doubt(data) else theirs.get((shown, n))
        if shown == "benign" and start is not None and (step := _first_apart(points, start, control)):
            figure = f"{points[step].value:.0%} of images after {step:,} steps on {n:,} other images"
            text = f"Fine-tuned on {n:,} other images, the class rose from {start} to {points[step]} in {step:,} steps."
            return Finding("bad", "Returns without being shown", figure, text, ())
    forget = {n: points for (shown, n), points in mine.items() if shown == "forget"}
    pairs = _relearning_pairs(result)
    if pairs:
        titles = ("Comes back faster than in a model that never saw it", "No faster than in a model that never saw it")
        return _against_retrained(data, pairs, *titles)
    shares = [
        (f"after {step:,} steps on {n:,} unwanted images", share)
        for n, points in forget.items()
        for step, share in points.items()
        if step > 0
    ]
    starts = [points[0] for points in forget.values() if 0 in points]
    start = max(starts, key=lambda share: share.value, default=None)
    return _against_original(shares, _original_share(data, result.get("original")), start)


def _relearning_pairs(result: dict[str, Any]) -> list[tuple[str, Share, Share]]:
    """(where, unlearned, retrained) at every step of training on unwanted images that both models have."""
    curves = {(c["model"], c["n_shown"]): _points(c) for c in result["curves"] if c["shown"] == "forget"}
    return [
        (f"after {step:,} steps on {n:,} unwanted images", share, curves["retrained", n][step])
        for (model, n), points in curves.items()
        if model == "unlearned"
        for step, share in points.items()
        if step > 0 and step in curves.get(("retrained", n), {})
    ]


def _risen_beside_retrained(data: ReportData) -> tuple[Share, Share] | None:
    """The largest relearned share with the retrained model's, where it lies above the start; else None."""
    result = measured(data.metrics, "relearning")
    pairs = _relearning_pairs(result) if result else []
    if not pairs or result is None:
        return None
    _, ours, theirs = max(pairs, key=lambda item: item[1].value)
    mine = [_points(c) for c in result["curves"] if (c["model"], c["shown"]) == ("unlearned", "forget")]
    starts = [points[0] for points in mine if 0 in points]
    start = max(starts, key=lambda share: share.value, default=None)
    return (ours, theirs) if start is None or difference(ours, start)[0] > 0 else None


def _points(curve: dict[str, Any]) -> dict[int, Share]:
    return {point["step"]: Share.of(point) for point in curve["points"]}


def _first_apart(points: dict[int, Share], start: Share, retrained: dict[int, Share] | None) -> int | None:
    """The first step at which the share lies above its start, and above the retrained model's if there is one."""
    for step, share in sorted(points.items()):
        beside = None if retrained is None else retrained.get(step)
        if share.low > start.high and (beside is None or share.low > beside.high):
            return step
    return None


def _stochastic(data: ReportData, result: dict[str, Any]) -> Finding:
    plain = (data.row("unlearned") or {}).get("pul")
    rows = [
        row for row in result["rows"] if row["pul"] is not None
    ]  # null: the original itself makes none of the class
    if plain is None or not rows:
        return Finding(
            "unknown", "Undecided", "no PUL to compare with", "There is no ordinary PUL to compare with.", ()
        )
    if all("control_count" in row for row in rows):
        pairs = [
            (f"with {_sampler(row)}", wilson(row["pul"]["n_unlearned"], n), wilson(row["control_count"], n))
            for row in rows
            for n in (row["n_images"],)
        ]
        titles = (
            "Shows more with another sampler than a model that never saw it",
            "No more than a model that never saw it shows",
        )
        return _against_retrained(data, pairs, *titles)
    worst = min(rows, key=lambda row: row["pul"]["low"])
    pul = worst["pul"]
    name = _sampler(worst)
    figure = f"interval of PUL from {percent(pul['low'])} with {name}"
    ends = f"{percent(pul['low'])} to {percent(pul['high'])}"
    text = (
        f"With {name}, the worst of {len(rows)} tried, PUL is {percent(pul['value'])} "
        f"({ends}); with the ordinary one {percent(plain['value'])} ({percent(plain['low'])} to {percent(plain['high'])})."
    )
    own = (result.get("protocol") or {}).get("evaluation's own sampler")
    if own:
        text += f" The ordinary one here is {own}."
    apart = [row for row in rows if row["pul"]["high"] < plain["low"]]
    if apart:
        bad = any(row["pul"]["low"] < THRESHOLDS["mostly_gone_percent"] for row in apart)
        return Finding("bad" if bad else "mixed", "The ordinary sampler hides some of it", figure, text, ())
    if pul["low"] >= plain["low"] - THRESHOLDS["resample_margin_percent"]:
        return Finding("good", "Stays away with other samplers", figure, text, ())
    return Finding("unknown", "Undecided", figure, text, ())


def _sampler(row: dict[str, Any]) -> str:
    return row["sampler"] + ("" if row["eta"] is None else f", η = {number(row['eta'])}")


def _completion(data: ReportData, result: dict[str, Any]) -> Finding:
    shares = [
        (f"with {row['handed_share']:.0%} of the chain done by the original", Share.of(row)) for row in result["rows"]
    ]
    if result["protocol"].get("control") == "retrained":
        rows = zip(shares, result["rows"], strict=True)
        pairs = [(where, share, wilson(row["control_count"], share.total)) for (where, share), row in rows]
        titles = ("Is finished as it was begun", "Finished no more than by a model that never saw it")
        return _against_retrained(data, pairs, *titles)
    early = [
        pair
        for pair, row in zip(shares, result["rows"], strict=True)
        if 0 < row["handed_share"] <= THRESHOLDS["early_handed_share"]
    ]
    return _against_original(early, 1.0, _ordinary(data))  # all of these noises give the class in the original


def _inpainting(data: ReportData, result: dict[str, Any]) -> Finding:
    rows = {(row["model"], row["hidden"]): Share.of(row) for row in result["rows"]}
    mine = [(hidden, share) for (model, hidden), share in rows.items() if model == "unlearned"]
    pairs = [
        (f"with the {hidden} hidden", share, rows["retrained", hidden])
        for hidden, share in mine
        if ("retrained", hidden) in rows
    ]
    if pairs:
        return _against_retrained(
            data, pairs, "Is filled in again", "Filled in no more than by a model that never saw it"
        )
    found = [
        _against_original([(f"with the {hidden} hidden", share)], rows["original", hidden].value, _ordinary(data))
        for hidden, share in mine
        if ("original", hidden) in rows
    ]
    return _worst(found) or _against_original([], None, None)


def _worst(findings: Iterable[Finding]) -> Finding | None:
    order = ("bad", "mixed", "unknown", "good")
    return min(findings, key=lambda found: order.index(found.level), default=None)


def _against_retrained(data: ReportData, pairs: list[tuple[str, Share, Share]], back: str, no_more: str) -> Finding:
    """Compare shares with the retrained model's, point by point (see the module's docstring)."""
    leads = [(difference(ours, theirs)[1], where, ours, theirs) for where, ours, theirs in pairs]
    apart = [
        (ours.value - theirs.value, where, ours, theirs) for where, ours, theirs in pairs if ours.low > theirs.high
    ]
    doubt = retrained_doubt(data)
    if doubt:
        return Finding(
            "unknown", "Undecided: the retrained model may have seen it", "no sound comparison", doubt, (doubt,)
        )
    limit = "Compared with one retrained model; another one would differ a little."
    if apart:
        _, where, ours, theirs = max(apart, key=lambda item: item[0])
        figure = f"{ours.value:.0%} against {theirs.value:.0%} {where}"
        text = f"The unlearned model made {ours} of the class {where}, the retrained one {theirs}."
        return Finding("bad", back, figure, text, (limit,))
    most, where, ours, theirs = max(leads, key=lambda item: item[0])
    _, highest, beside = max(pairs, key=lambda item: item[1].value)
    figure = f"{highest.value:.0%} against {beside.value:.0%} in the retrained model, at most {max(0.0, 100 * most):.0f} points more"
    text = (
        f"At none of {len(pairs)} points is the unlearned model's interval above the retrained one's. The largest lead that "
        f"cannot be excluded is {100 * most:.0f} percentage points: {ours} against {theirs} {where}."
    )
    if most <= THRESHOLDS["lead_margin_share"]:
        return Finding("good", no_more, figure, text, (limit,))
    return Finding("unknown", "Undecided", f"a lead of {100 * most:.0f} points not excluded", text, (limit,))


def _original_share(data: ReportData, original: dict[str, Any] | None) -> float | None:
    """The original's own share of the class: the probe's if it has one, else that of the evaluation."""
    if original is not None:
        return original["forget_count"] / original["n_images"]
    count = (data.row("original") or {}).get("forget_count")
    return None if count is None else count / data.metrics["n_images"]


def _ordinary(data: ReportData) -> Share | None:
    """What the unlearned model makes by itself: the start of a probe that has none of its own."""
    count = (data.row("unlearned") or {}).get("forget_count")
    return None if count is None else wilson(count, data.metrics["n_images"])


def _against_original(shares: list[tuple[str, Share]], original: float | None, start: Share | None) -> Finding:
    """Compare shares with a part of the original's, where there is no retrained model."""
    if not shares or not original:
        text = "The probe has no point that can be read without a retrained model."
        return Finding("unknown", "Undecided", "nothing to compare with", text, (_ALONE,))
    line = THRESHOLDS["return_share_of_original"] * original
    where, share = max(shares, key=lambda item: item[1].low)
    figure = f"{share.value:.0%} {where} (original {original:.0%})"
    text = f"At most it was {share} {where}; the original's own share is {percent(100 * original)}."
    if share.low >= line:
        first, found = next((place, each) for place, each in shares if each.low >= line)
        figure = f"{found.value:.0%} {first} (original {original:.0%})"
        return Finding("mixed", "It can be brought back", figure, text, (_ALONE,))
    if all(each.high < line for _, each in shares):
        if start is None or any(difference(each, start)[0] > 0 for _, each in shares):
            return Finding("mixed", _BELOW, figure, text, (_ALONE,))
        return Finding("good", "Stays away in what was tried", figure, text, (_ALONE,))
    return Finding("unknown", "Undecided", figure, text, (_ALONE,))
