"""The settings of ``vdu posterior`` and ``vdu evaluate``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from vdu.commands.options import (
    Count,
    GivenFirst,
    Guidance,
    ImageCount,
    OutputDir,
    Rate,
    SamplerSettings,
    Seed,
    Share,
    plain,
    to_toml,
)  # fmt: skip

__all__ = ["Estimator", "EvaluateSettings", "PosteriorSettings", "plain", "to_toml"]

Estimator = Literal["fisher", "ensemble", "finetuned-ensemble", "isotropic", "amnesia-fisher"]


@dataclass(frozen=True, kw_only=True)
class PosteriorSettings(SamplerSettings):
    """Estimate mean and variance of the pre-trained weights.

    Attributes:
        estimator: fisher (one checkpoint and its generated samples), ensemble (checkpoints of several members),
            finetuned-ensemble (one checkpoint, fine-tuned several times), isotropic (a control) or amnesia-fisher
            (Selective Amnesia's Fisher, for that method).
        pipeline: the pre-trained diffusers pipeline folder.
        output_dir: the run folder; the posterior is in its posterior.safetensors.
        members: ensemble: pipeline folders of the members.
        data: finetuned-ensemble: training images; by default generated samples.
        n_train: fisher: size of the model's training set (for MNIST 60000).
        n_samples: number of generated samples.
        draws_per_half: fisher: (t, ε) draws per sample and half.
        timesteps_per_sample: amnesia-fisher: strata of timesteps per generated sample (the published form takes all of them).
        prior_precision: fisher: precision of the prior; by default that of the weights themselves.
        variance: isotropic: the variance of every weight.
        n_members: finetuned-ensemble: number of fine-tunings.
        finetune_steps: finetuned-ensemble: steps of each.
        finetune_learning_rate: finetuned-ensemble: Adam's step size.
        finetune_batch_size: finetuned-ensemble: images per step.
        calibrate: scale the variance so that a draw of the weights raises the loss on generated samples by this fraction
            (for example 0.05); 0 leaves it as estimated.
        mean: action if the mean is not a working model: refuse, or recentre at the pipeline's weights.
        train: what the unlearning is to train, as for "vdu unlearn"; the posterior covers these weights alone.
        name_filter: regular expression for the parameters to cover; by default all.
        seed: seeds everything.
        resume_from_checkpoint: "latest" continues an interrupted run.
        overwrite: start anew in a folder that already holds a run.
    """

    estimator: Annotated[Estimator, GivenFirst] = "fisher"
    pipeline: Annotated[Path, GivenFirst] = Path()
    output_dir: OutputDir = Path("posterior")
    members: tuple[Path, ...] = ()
    data: str | None = None
    n_train: Count | None = None
    n_samples: Count = 200
    draws_per_half: Count = 8
    timesteps_per_sample: Count = 50
    prior_precision: Rate | None = None
    variance: Rate = 1e-4
    n_members: Count = 5
    finetune_steps: Count = 200
    finetune_learning_rate: Rate = 1e-4
    finetune_batch_size: Count = 64
    calibrate: Share = 0.0
    mean: Literal["refuse", "recentre"] = "refuse"
    train: str = "all"
    name_filter: str | None = None
    seed: Seed = 0
    resume_from_checkpoint: Literal["latest"] | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(SamplerSettings):
    """Compare an unlearned pipeline with the original, from the same noise, and probe it; writes metrics.json and samples/.

    Attributes:
        run: the run folder of "vdu unlearn"; without it, --before, --after and --forget are needed.
        before: the original: a pipeline folder, a run folder, zoo:NAME or a model of the Hugging Face Hub.
        after: the model to compare it with, whoever made it: a pipeline folder, or a run folder.
        forget: with --before and --after, the unwanted images: a folder, a list of files, or a data set (then with --forget-class).
        forget_prompt: with --before and --after of text-to-image models, what was to be forgotten in words (or a text file with a prompt on
            every line); --forget may then be left out. A run knows its own.
        prompts: TOML or JSON file of prompt sets: target, paraphrases, neighbours, others, and perhaps classes; by default the run's
            prompts.
        guidance_scale: scale of classifier-free guidance, for models with conditions; by default that of the run (also of one that is given
            as --after). 1 is without guidance.
        output_dir: with --before and --after, the folder for the evidence; by default evidence.
        judge: folder of a trained judge ("vdu judge"), or zoo:NAME for a packaged one; by default a fallback classifier is
            trained on the forget set against the original's generated samples.
        second_judge: a judge of another architecture, as a check; it also filters the filtered-oracle baseline ("filtered original").
        cross_judge: a judge of another domain (styles, where an object was forgotten), for the cross-domain retain accuracy.
        forget_class: the forgotten classes, by the names of a given judge or labelled images; by default those of
            "vdu unlearn --forget-class".
        reference: real images to compare with (a data set, folder or list); by default the filtered original.
        reference_split: which part of a data set: train or test.
        features: network whose features give u-FID, KID, precision and recall: judge, inception (FID's own weights), inception:FILE or
            efficientnet-lite0.
        suite: probe suite: quick (minutes), full (prints an estimate of its duration) or none.
        retrained: pipeline folder of a model trained without the forget class, for comparison.
        data: the original's labelled training data set, for measurements only: it gives held-out images of the forget class and
            images of the rest for likelihood, membership and inpainting.
        held_out: held-out images of the forget class (a folder, a list, or a data set, of which the test split is taken), if --data has
            none.
        n_images: number of images from each model.
        n_judge_samples: number of generated samples for training the fallback classifier.
        seed: image i starts from noise drawn from (seed, i), for both models.
    """

    run: Annotated[Path | None, GivenFirst] = None
    before: Path | None = None
    after: Path | None = None
    forget: str | None = None
    forget_prompt: tuple[str, ...] = ()
    prompts: Path | None = None
    guidance_scale: Guidance | None = None
    output_dir: Annotated[Path | None, Parameter(alias="-o")] = None
    judge: str | None = None
    second_judge: str | None = None
    cross_judge: str | None = None
    forget_class: tuple[str, ...] = ()
    reference: str | None = None
    reference_split: Literal["train", "test"] = "train"
    features: str = "judge"
    suite: Literal["quick", "full", "none"] = "quick"
    retrained: Path | None = None
    data: str | None = None
    held_out: str | None = None
    n_images: ImageCount = 1000
    n_judge_samples: Count = 1000
    seed: Seed = 0

    def judges(self) -> dict[str, Any]:
        """The arguments of ``vdu.judges.judging.find_judges`` among these settings."""
        return {
            "judge": self.judge, "second_judge": self.second_judge, "n_samples": self.n_judge_samples, "seed": self.seed,
        }  # fmt: skip
