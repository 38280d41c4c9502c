"""The settings of every verb: one frozen dataclass each, shared by the command line, TOML files and run folders.

This module imports neither torch nor diffusers, so that ``vdu --help`` stays quick.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from vdu.methods.defaults import DEFAULTS, UnlearnMethod

if TYPE_CHECKING:
    from vdu.diffusion.sampling import Sampler
    from vdu.training.loop import TrainSettings

__all__ = [
    "Architecture", "CompareSettings", "DemoSettings", "Estimator", "EvaluateSettings", "ExploreSettings",
    "ImportSettings", "JudgeSettings", "ListSettings", "PosteriorSettings", "PretrainSettings", "ReportSettings",
    "ReproduceSettings", "SampleSettings", "SamplerSettings", "UnlearnMethod", "UnlearnSettings", "plain", "to_toml",
]  # fmt: skip


Estimator = Literal["fisher", "ensemble", "finetuned-ensemble", "isotropic", "amnesia-fisher"]

Architecture = Literal["ddpm-pytorch", "improved-diffusion"]


def _count(type_: Any, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"Got {value}; expected at least 1.")


def _rate(type_: Any, value: float | None) -> None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"Got {value}; expected a number above 0.")


def _share(type_: Any, value: float | None) -> None:
    if value is not None and not 0 <= value < 1:
        raise ValueError(f"Got {value}; expected a number from 0 to below 1.")


def _digit(type_: Any, value: int) -> None:
    if not 0 <= value <= 9:
        raise ValueError(f"Got {value}; expected a digit from 0 to 9.")


# refused before a run folder is touched
Count = Annotated[int, Parameter(validator=_count)]
Rate = Annotated[float, Parameter(validator=_rate)]
Share = Annotated[float, Parameter(validator=_share)]
GivenFirst = Parameter(parse=False)  # the verb's first argument, not an option


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Train an unconditional diffusion model from scratch, or fine-tune one.

    Attributes:
        data: images: mnist, cifar10, digits, mnist:FOLDER, hf:NAME, an image folder or a list of files.
        output_dir: the run folder; the trained pipeline is in its pipeline/.
        without: classes to leave out (the "retrained" reference of an unlearning).
        from_pipeline: fine-tune this diffusers pipeline folder instead of starting from a new model.
        model: the new model: small (8 to 64 pixels), or the paper's: ddpm-pytorch (1×28×28), improved-diffusion (3×32×32).
        members: train so many, with the seeds seed, seed + 1, … in member-0/, member-1/, …: an ensemble for "vdu posterior
            ensemble". Started again, or on another machine over the same folder, it goes on with what is missing.
        steps: optimiser steps.
        batch_size: images per step, over all processes.
        learning_rate: Adam's peak step size.
        lr_schedule: constant, linear or cosine.
        warmup_steps: linear warm-up of the learning rate.
        ema_decay: decay of the weight average that is saved in the end; 0 keeps none.
        max_grad_norm: gradient clipping.
        gradient_accumulation_steps: micro-batches per step and process.
        mixed_precision: no, fp16 or bf16.
        compile: compile the network (minutes at the start, quicker steps on an accelerator).
        seed: seed of weights, batches and noise.
        checkpointing_steps: a checkpoint every so many steps.
        checkpoints_total_limit: how many checkpoints to keep.
        resume_from_checkpoint: "latest" continues an interrupted run.
        overwrite: start anew in a folder that already holds a run.
        report_to: show the log's values elsewhere too: tensorboard, wandb or trackio.
    """

    data: str
    output_dir: Path
    without: tuple[str, ...] = ()
    from_pipeline: Annotated[Path | None, Parameter(alias="--from")] = None
    model: Literal["small", "ddpm-pytorch", "improved-diffusion"] = "small"
    members: Count = 1
    steps: Count = 4000
    batch_size: Count = 128
    learning_rate: Rate = 1e-3
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: int = 100
    ema_decay: Share = 0.999
    max_grad_norm: Rate = 1.0
    gradient_accumulation_steps: Count = 1
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    compile: bool = False
    seed: int = 0
    checkpointing_steps: Count = 500
    checkpoints_total_limit: Count = 2
    resume_from_checkpoint: Literal["latest"] | None = None
    overwrite: bool = False
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"

    def training(self) -> "TrainSettings":
        """How the training loop runs under these settings."""
        from vdu.core.rng import derive_seed
        from vdu.training.loop import TrainSettings

        return TrainSettings(
            steps=self.steps, learning_rate=self.learning_rate, lr_schedule=self.lr_schedule,
            warmup_steps=self.warmup_steps, gradient_accumulation_steps=self.gradient_accumulation_steps,
            max_grad_norm=self.max_grad_norm, ema_decay=self.ema_decay or None, mixed_precision=self.mixed_precision,
            seed=derive_seed(self.seed, "training"), checkpointing_steps=self.checkpointing_steps,
            checkpoints_total_limit=self.checkpoints_total_limit,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """How images are drawn; all of it is printed beside every number.

    Attributes:
        scheduler: ddpm (ancestral), ddim or dpm++ (DPM-Solver++).
        inference_steps: network evaluations per image; ddpm with all of the model's steps is the paper's protocol.
        eta: DDIM's noise, 0 (deterministic) to 1.
        microbatch_size: images per network evaluation; part of the protocol.
    """

    scheduler: Literal["ddpm", "ddim", "dpm++"] = (
        "ddpm"  # with so few steps deterministic DDIM has twice the u-FID on mnist-small
    )
    inference_steps: Count = 20
    eta: float = 0.0
    microbatch_size: Count = 50

    def sampler(self) -> "Sampler":
        """The sampling protocol that these settings describe."""
        from vdu.diffusion.sampling import Sampler

        return Sampler(self.scheduler, self.inference_steps, eta=self.eta, microbatch_size=self.microbatch_size)


@dataclass(frozen=True, kw_only=True)
class SampleSettings(SamplerSettings):
    """Draw images from a pipeline: PNG files, one grid, and all pixels in one safetensors file.

    Attributes:
        pipeline: a diffusers pipeline folder.
        output_dir: the folder for the images.
        n_images: how many.
        seed: image i starts from noise drawn from (seed, i).
        overwrite: start anew in a folder that already holds a run.
    """

    pipeline: Path
    output_dir: Path
    n_images: Count = 64
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class PosteriorSettings(SamplerSettings):
    """Estimate mean and variance of the pre-trained weights.

    Attributes:
        estimator: fisher (one checkpoint and its own samples), ensemble (checkpoints of several members),
            finetuned-ensemble (one checkpoint, fine-tuned several times), isotropic (a control) or amnesia-fisher
            (Selective Amnesia's Fisher, for that method).
        pipeline: the pre-trained diffusers pipeline folder.
        output_dir: the run folder; the posterior is in its posterior.safetensors.
        members: ensemble: pipeline folders of the members.
        data: finetuned-ensemble: what to fine-tune on; by default the model's own samples.
        n_train: fisher: size of the set that the model was trained on (for MNIST 60000).
        n_samples: own samples to draw.
        draws_per_half: fisher: (t, ε) draws per sample and half.
        timesteps_per_sample: amnesia-fisher: strata of timesteps per own sample (the published form takes all of them).
        prior_precision: fisher: precision of the prior; by default that of the weights themselves.
        variance: isotropic: the variance of every weight.
        n_members: finetuned-ensemble: how many fine-tunings.
        finetune_steps: finetuned-ensemble: steps of each.
        finetune_learning_rate: finetuned-ensemble: Adam's step size.
        finetune_batch_size: finetuned-ensemble: images per step.
        calibrate: scale the variance so that a draw of the weights raises the own-sample loss by this share
            (for example 0.05); 0 leaves it as estimated.
        mean: what to do if the mean is no working model: refuse, or recentre at the pipeline's own weights.
        name_filter: regular expression of the parameters to cover; by default all.
        seed: seeds everything.
        resume_from_checkpoint: "latest" continues an interrupted run.
        overwrite: start anew in a folder that already holds a run.
    """

    estimator: Annotated[Estimator, GivenFirst] = "fisher"
    pipeline: Path
    output_dir: Path
    members: tuple[Path, ...] = ()
    data: str | None = None
    n_train: int | None = None
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
    name_filter: str | None = None
    seed: int = 0
    resume_from_checkpoint: Literal["latest"] | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class UnlearnSettings(SamplerSettings):
    """Make a pipeline forget images; the new pipeline is in the run folder's pipeline/.

    Attributes:
        pipeline: the diffusers pipeline folder that shall forget; it is not changed.
        forget: the images to forget: an image folder, a list of files, or a data set (then with --forget-class).
        output_dir: the run folder.
        forget_class: the classes to forget, if the images have labels.
        convert: convert images of another size or mode to the model's, instead of refusing them.
        method: auto (the one that measured best: distillation), vdu (the paper's), ascent (the same with the regulariser off), or
            one of those that "vdu list" explains.
        option: NAME=VALUE, a setting of the method's own, for example forget_weight=0.3; "vdu list" names them.
        posterior: file or run folder of "vdu posterior"; vdu needs it, and selective-amnesia (there "amnesia-fisher").
        retain: images to keep, for methods that can use some: a data set, folder or list (of labelled ones, the classes to
            forget are left out), or self (the model's own samples, less those that resemble the forget set).
        n_own_samples: own samples to draw, with the sampler below, for methods that want some.
        force: go on where the model makes nothing like the forget set, or little else.
        full_length: all steps, even where the stopping rule says that it is forgotten.
        ewc: selective-amnesia: λ, the weight of its penalty.
        gamma: weight of the stability term, 0 to 1.
        weights: of the denoising loss: paper (Eq. 3), elbo (with the lost ½) or uniform.
        schedule_steps: T of the linear unlearning schedule; its noise levels are mapped to the model's by ᾱ.
        beta_start: β of its first step.
        beta_end: β of its last step.
        alpha_bar_min: leave out noise levels with ᾱ below this.
        alpha_bar_max: leave out noise levels with ᾱ above this.
        steps: optimiser steps; auto, distillation and retrack stop sooner if their rule says that it is forgotten. Like those below
            and the sampler, by default what suits the method.
        batch_size: images of each role per step, over all processes.
        learning_rate: Adam's step size.
        lr_schedule: constant, linear or cosine.
        warmup_steps: linear warm-up of the learning rate.
        ema_decay: decay of the weight average that is saved in the end; 0 keeps none.
        gradient_accumulation_steps: micro-batches per step and process.
        max_grad_norm: gradient clipping; by default none, or what suits the method.
        mixed_precision: no, fp16 or bf16.
        seed: seeds everything.
        checkpointing_steps: a checkpoint every so many steps.
        checkpoints_total_limit: how many checkpoints to keep; more of them give "vdu explore" a longer front.
        resume_from_checkpoint: "latest" continues an interrupted run.
        overwrite: start anew in a folder that already holds a run.
        report_to: show the log's values elsewhere too: tensorboard, wandb or trackio.
    """

    pipeline: Path
    forget: str
    output_dir: Path
    forget_class: tuple[str, ...] = ()
    convert: bool = False
    method: UnlearnMethod = "auto"
    option: tuple[str, ...] = ()
    posterior: Path | None = None
    retain: str | None = None
    n_own_samples: Count | None = None
    force: bool = False
    full_length: bool = False
    ewc: float = 10.0
    gamma: float = 0.1
    weights: Literal["paper", "elbo", "uniform"] = "paper"
    schedule_steps: Count = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    alpha_bar_min: float = 0.0
    alpha_bar_max: float = 1.0
    scheduler: Literal["ddpm", "ddim", "dpm++"] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    inference_steps: Count | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    steps: Count | None = None
    batch_size: Count | None = None
    learning_rate: Rate | None = None
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int | None = None
    ema_decay: Share | None = None
    gradient_accumulation_steps: Count = 1
    max_grad_norm: Rate | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    seed: int = 0
    checkpointing_steps: Count = 20
    checkpoints_total_limit: Count = 2
    resume_from_checkpoint: Literal["latest"] | None = None
    overwrite: bool = False
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"

    def __post_init__(self) -> None:
        """Fill in what suits the method, so that the run's record says what was done."""
        for name, value in DEFAULTS.get(self.method, DEFAULTS["vdu"]).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(SamplerSettings):
    """Compare an unlearned pipeline with the original, from the same noise, and probe it; writes metrics.json and samples/.

    Attributes:
        run: the run folder of "vdu unlearn".
        judge: folder of a trained judge ("vdu judge"), or mnist for the packaged one; by default one is trained on the
            spot from the forget set against the original's own samples.
        second_judge: a judge of another architecture, as a check; it also filters the filtered original.
        forget_class: the forgotten classes, as a given judge or a labelled reference calls them; by default those of
            "vdu unlearn --forget-class".
        reference: real images to compare with (a data set, folder or list); by default the filtered original.
        reference_split: which part of a data set: train or test.
        features: network whose features give u-FID, KID, precision and recall: judge, inception (FID's own weights), inception:FILE or
            efficientnet-lite0.
        suite: probes besides the samples: quick (minutes), full (says how long it will take) or none.
        retrained: pipeline folder of a model trained without the forget class, the row and the curves to compare with.
        data: labelled data set that the original was trained on, to measure with: it gives held-out images of the forget class and
            images of the rest for likelihood, membership and inpainting.
        held_out: images of what was forgotten that no model saw (a folder or list), where --data cannot tell.
        n_images: images from each model.
        n_judge_samples: own samples for a judge trained on the spot.
        seed: image i starts from noise drawn from (seed, i), for both models.
    """

    run: Annotated[Path, GivenFirst] = Path()
    judge: str | None = None
    second_judge: str | None = None
    forget_class: tuple[str, ...] = ()
    reference: str | None = None
    reference_split: Literal["train", "test"] = "train"
    features: str = "judge"
    suite: Literal["quick", "full", "none"] = "quick"
    retrained: Path | None = None
    data: str | None = None
    held_out: str | None = None
    n_images: Count = 1000
    n_judge_samples: Count = 1000
    seed: int = 0

    def judges(self) -> dict[str, Any]:
        """The arguments of ``vdu.judges.judging.find_judges`` among these settings."""
        return {
            "judge": self.judge, "second_judge": self.second_judge, "n_samples": self.n_judge_samples, "seed": self.seed,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Write a run's evidence report, one self-contained HTML file.

    Attributes:
        run: the run folder, after "vdu evaluate".
        output: where to write; by default report.html in the run folder.
        hide_forgotten: blur the images that shall be forgotten.
    """

    run: Annotated[Path, GivenFirst] = Path()
    output: Path | None = None
    hide_forgotten: bool = False


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Runs beside each other: a table, and one self-contained page.

    Attributes:
        runs: two or more run folders, after "vdu evaluate".
        output: where to write the page.
        force: show runs that were measured unlike, marked as incomparable.
    """

    runs: Annotated[tuple[Path, ...], GivenFirst] = ()
    output: Path = Path("compare.html")
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class ExploreSettings:
    """Look at an unlearned model on a local page: watch it denoise, filter its samples, walk its checkpoints.

    Attributes:
        runs: one or more run folders of "vdu unlearn", after "vdu evaluate".
        host: the address to listen on; any other than 127.0.0.1 shows the images to whoever reaches it.
        port: the port; by default the first free one from 7860.
        n_images: images of each checkpoint for PUL and u-FID, at most as many as "vdu evaluate" stored.
        browser: open the page in the default browser.
    """

    runs: Annotated[tuple[Path, ...], GivenFirst] = ()
    host: str = "127.0.0.1"
    port: int | None = None
    n_images: Count = 100
    browser: bool = False


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """The main job on the packaged digits: the small MNIST model forgets one digit.

    Attributes:
        output_dir: the run folder.
        digit: the digit to forget, 0 to 9.
        n_images: images from each model for the evidence.
        suite: probes of the evidence: quick, full or none.
        steps: unlearning steps at most; by default those that were chosen by measurement.
        seed: seeds everything.
        overwrite: start anew in a folder that already holds a run.
        resume_from_checkpoint: "latest" continues an interrupted forgetting; the evidence is made anew.
    """

    output_dir: Path = Path("vdu-demo")
    digit: Annotated[int, Parameter(validator=_digit)] = 8
    n_images: Count = 500
    suite: Literal["quick", "full", "none"] = "quick"
    steps: Count | None = None
    seed: int = 0
    overwrite: bool = False
    resume_from_checkpoint: Literal["latest"] | None = None


@dataclass(frozen=True, kw_only=True)
class ListSettings:
    """The methods, what data each needs, and the options that it takes."""


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Run a table of the paper, or its figures, cell by cell; what is done is not done again.

    Attributes:
        table: table1, table2, figures or leaderboard, or a TOML file of the same form.
        scale: smoke (minutes), small (two CPU cores, hours) or paper (the paper's own networks; wants an accelerator).
        output_dir: the folder of all scales' cells; several processes and machines may share it.
        data: where the training data are, if not where the table says (for example mnist:FOLDER).
        list_cells: only list the cells and which of them are done.
        only_done: write the table from the cells that are done; rows without any are named as not run.
    """

    table: Annotated[str, GivenFirst] = "table1"
    scale: Literal["smoke", "small", "paper"] = "small"
    output_dir: Path = Path("vdu-paper")
    data: str | None = None
    list_cells: bool = False
    only_done: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Turn a checkpoint of a public repository into a diffusers pipeline folder.

    Attributes:
        architecture: ddpm-pytorch (explainingai-code/DDPM-Pytorch, MNIST) or improved-diffusion (openai/improved-diffusion,
            unconditional CIFAR-10).
        checkpoint: the state dict of the network or of its moving average: .pth, .pt or .safetensors.
        output_dir: the pipeline folder; new or empty.
        schedule: the noise schedule of the training; the file does not tell it, and only the published one is taken.
        diffusion_steps: T of that schedule; likewise.
    """

    architecture: Annotated[Architecture, GivenFirst] = "ddpm-pytorch"
    checkpoint: Annotated[Path, GivenFirst] = Path()
    output_dir: Annotated[Path, GivenFirst] = Path()
    schedule: Literal["linear", "cosine"] | None = None
    diffusion_steps: Count | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Train a classifier on labelled images, to judge what models make.

    Attributes:
        data: labelled images with a test split: mnist, cifar10, digits, mnist:FOLDER, hf:NAME, a folder of class folders.
        output_dir: the run folder; the judge is in its judge/.
        architecture: cnn or lenet; one of each checks the other.
        name: the judge's name in tables; by default that of the data and the architecture.
        epochs: how often each image is seen.
        batch_size: images per step, over all processes.
        learning_rate: Adam's peak step size; it falls to 0 along a cosine.
        weight_decay: decoupled weight decay.
        shift_pixels: images are moved at random by up to so many pixels; by default 2, and 0 below 16 pixels.
        seed: seed of weights, batches, shifts and dropout.
        checkpointing_steps: a checkpoint every so many steps.
        resume_from_checkpoint: "latest" continues an interrupted run.
        overwrite: start anew in a folder that already holds a run.
        report_to: show the log's values elsewhere too: tensorboard, wandb or trackio.
    """

    data: str
    output_dir: Path
    architecture: Literal["cnn", "lenet"] = "cnn"
    name: str | None = None
    epochs: Count = 6
    batch_size: Count = 128
    learning_rate: Rate = 2e-3
    weight_decay: float = 0.01
    shift_pixels: int | None = None
    seed: int = 0
    checkpointing_steps: Count = 500
    resume_from_checkpoint: Literal["latest"] | None = None
    overwrite: bool = False
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"


def plain(settings: Any) -> dict[str, Any]:
    """Settings as plain values for TOML and JSON; options that are not set are left out."""

    def simple(value: Any) -> Any:
        if isinstance(value, tuple):
            return [simple(each) for each in value]
        return str(value) if isinstance(value, Path) else value

    return {name: simple(value) for name, value in asdict(settings).items() if value is not None}


def to_toml(settings: Any) -> str:
    """Settings as the text of a TOML file."""
    import tomli_w

    return tomli_w.dumps(plain(settings))
