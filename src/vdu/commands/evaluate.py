"""``vdu evaluate``: measures forgetting, damage and recovery, of a run or of any two pipelines (``vdu.evaluation``)."""

from dataclasses import fields, replace
from typing import Any

from vdu.commands.settings import EvaluateSettings
from vdu.core.errors import InputError

__all__ = ["run"]


def run(settings: EvaluateSettings) -> dict[str, Any]:
    """Evaluate a run of ``vdu unlearn`` in place, or two pipelines in a folder of their own.

    Args:
        settings: see :class:`vdu.commands.settings.EvaluateSettings`.

    Returns:
        ``run`` (the folder), ``metrics`` (the path of metrics.json), and the key numbers under the names and in the form of
        metrics.json: ``n_images``, ``pul``, ``u_fid`` and ``forget_count`` (by row), ``feature_network``, ``judge``,
        ``kept``, ``histogram``, ``words``
        (of conditional models), ``warnings`` (sentences). Models, images or folders that do not suit raise an ``InputError``.

    Raises:
        InputError: if the settings do not fit together.
    """
    from vdu.evaluation.options import EvaluationOptions
    from vdu.evaluation.pair import require_one_subject
    from vdu.evaluation.recording import evaluate_pair, evaluate_run
    from vdu.reporting.code_texts import warning_text
    from vdu.unlearning.prompts import read_prompts

    require_one_subject(settings.run, settings.before, settings.after, settings.forget, settings.forget_prompt)
    names = [item.name for item in fields(EvaluationOptions) if item.name != "sampler"]
    sampler = replace(settings.sampler(), guidance_scale=settings.guidance_scale)
    options = EvaluationOptions(sampler=sampler, **{name: getattr(settings, name) for name in names})
    if options.forget_prompt:
        options = replace(options, forget_prompt=read_prompts(options.forget_prompt, "--forget-prompt"))
    if settings.run is not None:
        if settings.output_dir is not None:
            raise InputError(
                f"--output-dir: got {settings.output_dir} with a run, which is evaluated in its own folder. Leave it out."
            )
        found = evaluate_run(settings.run, options)
    else:
        found = evaluate_pair(
            settings.before, settings.after, settings.forget, options, settings.output_dir or "evidence"
        )
    evidence = found.evidence
    return {
        "run": str(found.folder),
        "metrics": str(found.folder / "metrics.json"),
        "n_images": evidence.n_images,
        "pul": evidence.pul.to_json(),
        "u_fid": {row.name: row.distances.u_fid.to_json() for row in evidence.rows if row.distances is not None},
        "forget_count": {row.name: row.forget_count for row in evidence.rows if row.forget_count is not None},
        "feature_network": evidence.feature_network,
        "judge": evidence.judge.to_json(),
        "kept": evidence.kept.to_json(),
        "histogram": evidence.histogram.to_json(),
        **({} if evidence.words is None else {"words": evidence.words.to_json()}),
        "warnings": [warning_text(each, found.metrics) for each in found.metrics["warnings"]],
    }
