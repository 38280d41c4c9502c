#!/usr/bin/env python3
"""Published code of three other methods beside ours, on one small network: the same values, and the ratios of time and memory.

Usage: against_peers.py --peer-root DIR [--rounds 7] [--only PART] [--json OUT.json]      (about four minutes on one core, on the CPU)

DIR holds what others published; nothing of it is part of this repository. Fetch it first:

    git clone https://github.com/claserken/SISS DIR/SISS
    git clone https://github.com/clear-nus/selective-amnesia DIR/selective-amnesia
    git clone https://github.com/OPTML-Group/Unlearn-Saliency DIR/Unlearn-Saliency

Tried with the commits af2a29c (SISS), b736571 (selective-amnesia) and a6e89fd (Unlearn-Saliency).

    SISS                the draws, the loss and the update, taken from the training loop of ``delete_tshirt.py``
    Selective Amnesia   ``Diffusion.save_fim`` and the steps of ``Diffusion.train_forget``
    SalUn               ``Diffusion.generate_mask`` and the steps of ``Diffusion.saliency_unlearn`` (method "rl")

Their functions run as they are, with our packaged network in the place of theirs and with images from memory in the place of files.
The network knows no dropping of labels and no guidance, so ``cond_drop_prob`` has no effect and ``cond_scale`` is 0. Samples of the Fisher
are in [−1, 1]; the published loader gives [0, 1]. Selective Amnesia has T = 50 steps in one chunk, so that 50 steps share a backward
pass, as in the published 1000 steps in 20 chunks. EMA and the writing of checkpoints are off. Our steps are the calls of our training loop
without its log; theirs are without the log, too, but for the loss that ``train_forget`` reads at each step and the norms that SISS prints.
``--only`` measures one part and keeps the others of the JSON file; the committed numbers were measured part by part.

Values are compared with the same draws, those of SISS, the Fisher and the mask in float64: ‖ours − theirs‖/‖theirs‖ over all entries. Times
are those of float32, in seconds of the processor, so that other programs count little. Ours and theirs alternate, the first round warms up,
and ratios are ours ÷ theirs. A step lasts from its draws to the next one's, and the first of each call does not count. Memory is the
most bytes of tensors made during a step (or the whole function) that are alive at once, counted as in ``text_memory.py``.
"""

import argparse
import ast
import copy
import importlib
import io
import json
import math
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import torch
from diffusers import DDPMScheduler
from text_memory import Peak
from torch import nn

from vdu.core.records import environment, write_json
from vdu.core.types import Tools
from vdu.diffusion.sampling import Sampler, sample
from vdu.diffusion.schedule import NoiseSchedule, noised_batch
from vdu.methods.salun import SalUn, saliency, top_share
from vdu.methods.selective_amnesia import SelectiveAmnesia
from vdu.methods.siss import SISS, mixture_weights
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.pipelines import load_pipeline
from vdu.posterior.amnesia_fisher import AmnesiaFisher
from vdu.posterior.fit import take_all
from vdu.training.loop import _term_gradients
from vdu.zoo.packaged import pipeline_folder

PEERS = {
    "SISS": ("claserken/SISS", ("delete_tshirt.py", "losses/ddpm_deletion_loss.py")),
    "selective-amnesia": ("clear-nus/selective-amnesia", ("ddpm/runners/diffusion.py",)),
    "Unlearn-Saliency": ("OPTML-Group/Unlearn-Saliency", ("DDPM/runners/diffusion.py",)),
}
PUBLISHED_NAMES = ("models", "functions", "datasets", "runners", "losses")  # top-level names that the three share
SOURCES_OF_DATA = (
    "torchvision",
    "einops",
    "requests",
    "six",
)  # what they import for data and networks, which ours replace
IMAGES = 16  # per role and step
FORGET = 0  # the label to forget
T = 50  # steps of the schedule of Selective Amnesia, all of them in one backward pass
STEPS = 4  # of a call that is timed; the first does not count


# What they need around them


def require_peers(root: Path) -> None:
    """End with a sentence if something is not there."""
    for folder, (repository, files) in PEERS.items():
        for file in files:
            if not (root / folder / file).is_file():
                sys.exit(
                    f"{root / folder / file}: not found; expected the published code. Fetch it: "
                    f"git clone https://github.com/{repository} {root / folder}"
                )


class Absent(ModuleType):
    """A package that is imported for what does not run here; using it ends the script with a sentence."""

    __path__ = ()

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def needed(*_, **__):
            sys.exit(f"{self.__name__}.{name} is used; install it: pip install {self.__name__.split('.')[0]}")

        return needed


@contextmanager
def published(folder: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Imports modules of a folder under their own names, which are free again afterwards."""

    def forget() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.split(".")[0] in {*PUBLISHED_NAMES, *SOURCES_OF_DATA}]
        return {name: sys.modules.pop(name) for name in names}

    before = forget()
    for name in SOURCES_OF_DATA:
        sys.modules[name] = Absent(name)
    for name in ("utils", "datasets", "transforms", "transforms.functional"):
        module = sys.modules[f"torchvision.{name}"] = Absent(f"torchvision.{name}")
        parent, _, last = f"torchvision.{name}".rpartition(".")
        setattr(sys.modules[parent], last, module)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(folder))
        forget()
        sys.modules.update(before)


class Behind(nn.Module):
    """Our network behind their interface."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, t, c, mode, **_):
        """The predicted noise."""
        return self.network(x, t, class_labels=c).sample


class Feed:
    """One batch again and again; each request begins a step, whose time is noted. With a counter it counts during the second step."""

    def __init__(self, batch, peak: Peak | None = None):
        self.batch, self.peak, self.starts = batch, peak, []

    def __iter__(self):
        while True:
            self.starts.append(time.process_time())
            if self.peak and len(self.starts) == 2:
                self.peak.__enter__()
            elif self.peak and len(self.starts) == 3:
                self.peak.__exit__(None, None, None)
            yield self.batch

    def seconds(self) -> float:
        """Median seconds of a step, without the first."""
        return statistics.median(b - a for a, b in zip(self.starts[1:], self.starts[2:], strict=False))


class InMemory(list):
    """Pairs of an image and its label, in the place of a folder; remembers the order in which they were asked for."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.order = []

    def __getitem__(self, place):
        self.order.append(place)
        return super().__getitem__(place)


def settings(n_timesteps: int, n_iters: int = 0) -> argparse.Namespace:
    """The published configuration, without what is left out on both sides."""
    return argparse.Namespace(
        data=argparse.Namespace(
            image_size=28, channels=1, n_classes=10, num_workers=0, rescaled=True, logit_transform=False,
            uniform_dequantization=False, gaussian_dequantization=False,
        ),
        model=argparse.Namespace(type="simple", var_type="fixedlarge", ema=False),
        diffusion=argparse.Namespace(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, num_diffusion_timesteps=n_timesteps),
        training=argparse.Namespace(n_iters=n_iters, log_freq=10**9, snapshot_freq=10**9, save_freq=10**9, gamma=1, lmbda=10),
        optim=argparse.Namespace(optimizer="Adam", lr=1e-4, weight_decay=0.0, beta1=0.9, amsgrad=False, eps=1e-8, grad_clip=1.0),
    )  # fmt: skip


def runner(root: Path, folder: str, denoiser, arguments, configuration):
    """Their module and their object of class ``Diffusion``, over a copy of our network."""
    with published(root / folder) as load:
        module = load("runners.diffusion")
    module.Conditional_Model = lambda config: Behind(copy.deepcopy(denoiser.network))
    module.transforms = SimpleNamespace(ToTensor=lambda: None)
    return module, module.Diffusion(arguments, configuration)


@contextmanager
def workplace(denoiser) -> Iterator[Path]:
    """A temporary folder with the checkpoint that their functions read; they print nothing."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "ckpts").mkdir()
        state = {f"module.network.{name}": value for name, value in denoiser.network.state_dict().items()}
        torch.save([state], folder / "ckpts" / "ckpt.pth")
        stack.enter_context(chdir(folder))
        stack.enter_context(patch.object(torch.cuda, "device_count", lambda: 1))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        yield folder


@contextmanager
def clipped() -> Iterator[list]:
    """Collects weights and gradients whenever a gradient is about to be clipped."""
    seen, clip = [], torch.nn.utils.clip_grad_norm_

    def noted(parameters, *args, **options):
        parameters = list(parameters)
        seen.append([[each.detach().clone() for each in parameters], [each.grad.clone() for each in parameters]])
        return clip(parameters, *args, **options)

    with patch.object(torch.nn.utils, "clip_grad_norm_", noted):
        yield seen


@contextmanager
def noted_losses(module, losses: list) -> Iterator[None]:
    """Collects the values of their denoising loss."""
    registry, plain = module.loss_registry_conditional, module.loss_registry_conditional["simple"]

    def noted(*args, **options):
        value = plain(*args, **options)
        losses.append(float(value))
        return value

    with patch.dict(registry, {"simple": noted}):
        yield


# Comparing


def apart(ours, theirs) -> float:
    """‖ours − theirs‖/‖theirs‖ over all entries of all tensors."""
    one, other = (
        torch.cat([torch.as_tensor(each, dtype=torch.float64).flatten() for each in side]) for side in (ours, theirs)
    )
    return float((one - other).norm() / other.norm())


def peak_of(denoiser, run: Callable[[], object]) -> int:
    """Most bytes alive at once of what the function makes."""
    with Peak() as peak:
        peak.know(*denoiser.network.parameters())
        run()
    return peak.peak


def paired(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> dict:
    """Seconds of both, alternating; each function returns its own."""
    seconds = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    ratios = sorted(a / b for a, b in seconds)
    return {
        "seconds_ours": statistics.median(a for a, _ in seconds),
        "seconds_theirs": statistics.median(b for _, b in seconds),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
    }


def memory(ours: int, theirs: int) -> dict:
    """Both counts and their ratio."""
    return {"bytes_ours": ours, "bytes_theirs": theirs, "ratio": ours / theirs}


def timed(run: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def optimiser(denoiser, **options):
    """Adam as our training loop makes it."""
    return torch.optim.AdamW(
        denoiser.network.parameters(), **{"lr": 1e-4, "weight_decay": 0.0, "fused": True} | options
    )


def losses_backward(method, denoiser, roles) -> None:
    """Losses, gradients and closed-form gradients, as our training loop takes them."""
    parameters = dict(denoiser.network.named_parameters())
    terms = method.losses(denoiser, roles).terms
    torch.stack([term.double() for term in terms.values()]).sum().backward()
    method.add_gradients(parameters)


def our_steps(method, denoiser, feed: Feed, steps: int, draw) -> None:
    """Steps of ours on a copy of the network, from the draws to the weights."""
    mine = denoiser.copy()
    optimizer, parameters = optimiser(mine), dict(mine.network.named_parameters())
    for _, batch in zip(range(steps), feed, strict=False):
        optimizer.zero_grad(set_to_none=True)
        losses_backward(method, mine, draw(batch))
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        method.after_step(parameters, {})


def both_steps(rounds: int, ours: Callable[[Feed, int], None], theirs: Callable[[Feed, int], None], batch) -> dict:
    """Time and memory of the steps of both."""

    def seconds(run) -> float:
        feed = Feed(batch)
        run(feed, STEPS + 1)
        return feed.seconds()

    def most(run) -> int:
        feed = Feed(batch, Peak())
        run(feed, 3)
        return feed.peak.peak

    return {
        "time": paired(rounds, lambda: seconds(ours), lambda: seconds(theirs)),
        "memory": memory(most(ours), most(theirs)),
    }


# SISS


def published_step(root: Path):
    """The code of one step of their training loop, from its draws to its optimiser, without the lines for the log."""
    file = root / "SISS" / "delete_tshirt.py"
    tree = ast.parse(file.read_text("utf-8"))
    loops = (node for node in ast.walk(tree) if isinstance(node, ast.While))
    loop = next(node for node in loops if "training_steps" in ast.unparse(node.test)).body
    inner = next(node for node in loop if isinstance(node, ast.With)).body

    def place(body, start: str) -> int:
        return next(i for i, node in enumerate(body) if ast.unparse(node).startswith(start))

    draws = loop[place(loop, "noise = ") : place(loop, "deletion_samples_dict = ") + 1]
    loss = inner[place(inner, "if self.cfg.scheduler.prediction_type")].body[:2]  # the rest of it is the log
    update = inner[place(inner, "if loss is not None") :]
    return compile(ast.fix_missing_locations(ast.Module([*draws, *loss, *update], [])), str(file), "exec")


class Deletion:
    """One step of SISS, ours and theirs, on the same images."""

    def __init__(self, root: Path):
        pipeline = load_pipeline(pipeline_folder("mnist"))
        self.denoiser = PipelineDenoiser.from_pipeline(pipeline)
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.images = sample(self.denoiser, list(range(2 * IMAGES)), Sampler("ddim", steps=10)).split(IMAGES)
        self.method = SISS().for_model(self.denoiser).prepare(self.denoiser, Tools(n_forget=IMAGES))
        self.code = published_step(root)
        levels = self.scheduler.alphas_cumprod
        with published(root / "SISS") as load:
            self.loss = load("losses.ddpm_deletion_loss").DDPMDeletionLoss(gamma=levels**0.5, sigma=(1 - levels) ** 0.5)

    def around(self, denoiser, images, scaling_norm: float, clip) -> dict:
        """The names that their step reads."""
        plain = {
            "timestep_del_window": None,
            "loss_fn": "importance_sampling_with_mixture",
            "loss_params": {"lambd": 0.5},
        }
        part = SimpleNamespace(**plain, scaling_norm=scaling_norm)
        kind = SimpleNamespace(prediction_type="epsilon")
        accelerator = SimpleNamespace(
            backward=lambda loss, **options: loss.backward(**options), sync_gradients=True, clip_grad_norm_=clip
        )
        return {
            "self": SimpleNamespace(cfg=SimpleNamespace(deletion=part, scheduler=kind, train_batch_size=IMAGES)),
            "accelerator": accelerator, "wandb": SimpleNamespace(log=lambda *_, **__: None),
            "lr_scheduler": SimpleNamespace(step=lambda: None), "noise_scheduler": self.scheduler, "torch": torch,
            "unet": denoiser.network, "optimizer": optimiser(denoiser, fused=None), "loss_fn": self.loss.importance_sampling_with_mixture,
            "all_images": images[0], "deletion_images": images[1], "weight_dtype": images[0].dtype, "global_step": 0,
            "accum_loss_x": {}, "accum_loss_a": {},
        }  # fmt: skip

    def theirs(self, feed: Feed, steps: int) -> None:
        """Their steps."""
        around = self.around(self.denoiser.copy(), self.images, 5.0, torch.nn.utils.clip_grad_norm_)
        with redirect_stdout(io.StringIO()):
            for _ in zip(range(steps), feed, strict=False):
                exec(self.code, around)

    def gradients(self, denoiser, images) -> dict:
        """Our draws, in their order, and the gradients of both terms; the combined one becomes the network's."""
        keep, forget = images
        noise, index = torch.randn(keep.shape, dtype=keep.dtype), torch.randint(0, 1000, (IMAGES,))
        kept, forgotten = (
            noised_batch(each, index, noise, denoiser.schedule, denoiser.schedule) for each in (keep, forget)
        )
        roles = {"retain": kept, "forget": replace(forgotten, draws={"choice": torch.rand(IMAGES)})}
        losses, values = self.method.losses(denoiser, roles), list(denoiser.network.parameters())
        of_terms = _term_gradients(losses.terms, values, 1)
        for value, gradient in zip(values, self.method.combine(of_terms), strict=True):
            value.grad = gradient
        return {"losses": losses.observed, "gradients": of_terms}

    def ours(self, feed: Feed, steps: int) -> None:
        """Our steps."""
        mine = self.denoiser.copy()
        optimizer = optimiser(mine)
        for _, images in zip(range(steps), feed, strict=False):
            optimizer.zero_grad(set_to_none=True)
            self.gradients(mine, images)
            torch.nn.utils.clip_grad_norm_(mine.network.parameters(), 1.0)
            optimizer.step()

    def values(self) -> dict:
        """Weights, losses and gradients of one step in float64; theirs sum over the d pixels, ours are means."""
        mine, other = self.denoiser.copy(), self.denoiser.copy()
        for each in (mine, other):
            each.network.double()
        images, pixels, weights, combined = [each.double() for each in self.images], self.images[0][0].numel(), [], []

        def noted(*args):
            weights.extend(mixture_weights(*args))
            return weights

        torch.manual_seed(1)
        with patch("vdu.methods.siss.mixture_weights", noted):
            found = self.gradients(mine, images)
        norm = math.sqrt(sum(float(each.square().sum()) for each in found["gradients"]["keep"]))

        def clip(parameters, _):
            combined.extend(each.grad.clone() for each in parameters)

        around = self.around(other, images, self.method.forget_share * pixels * norm, clip)
        torch.manual_seed(1)
        with redirect_stdout(io.StringIO()):
            exec(self.code, around)
        ours = [each.grad * pixels for each in mine.network.parameters()]
        return {
            "w_x": apart([weights[0]], [around["importance_weight_x"]]),
            "w_a": apart([weights[1]], [around["importance_weight_a"]]),
            "L_x": apart([found["losses"]["retain_mse"] * pixels], [around["weighted_loss_x"].detach()]),
            "L_a": apart([found["losses"]["mse"] * pixels], [around["weighted_loss_a"].detach()]),
            "update": apart(ours, combined),
        }

    def step(self, rounds: int) -> dict:
        """The values, the time and the memory of a step."""
        return {"values": self.values(), **both_steps(rounds, self.ours, self.theirs, self.images)}

    def saturation(self) -> dict:
        """Weights in float32 of every pair at every step, ours and theirs, against float64."""
        steps, seen = torch.arange(1000), {"ours": [], "theirs": [], "float64": []}
        levels = self.denoiser.schedule.alpha_bars.float()
        for k, (x, a) in enumerate(zip(*self.images, strict=True)):
            torch.manual_seed(k)
            noise = torch.randn(len(steps), *x.shape)
            x, a = x.expand_as(noise), a.expand_as(noise)
            noisy = [{"og_latents": z, "noisy_latents": self.scheduler.add_noise(z, noise, steps)} for z in (x, a)]
            with patch.object(
                torch, "rand", lambda n: torch.linspace(0, 1, n)
            ):  # the first half takes the forget image
                answer = self.loss.importance_sampling_with_mixture(
                    lambda m, *_, **__: (torch.zeros_like(m),), steps, noise, {}, *noisy, 0.5
                )
            seen["theirs"].append(torch.stack(answer[3:5]))
            took = (torch.linspace(0, 1, len(steps)) <= 0.5).view(-1, 1, 1, 1)
            for name, dtype in (("ours", torch.float32), ("float64", torch.float64)):
                level = levels.to(dtype).view(-1, 1, 1, 1)
                gap = (level / (1 - level)).sqrt() * (a - x).to(dtype)
                shifted = noise + torch.where(took, gap, 0.0), noise - torch.where(took, 0.0, gap)
                seen[name].append(torch.stack(mixture_weights(*shifted, 0.5)))
        exact = torch.stack(seen.pop("float64"))
        result: dict = {"weights": exact.numel()}
        for name, each in seen.items():
            values = torch.stack(each).double()
            result[name] = {
                "not_finite": int((~values.isfinite()).sum()),
                "wrong_by_more_than_1e-3": int(((values - exact).abs() > 1e-3).sum()),
                "exactly_0": int((values == 0).sum()),
                "largest_difference": float((values - exact).abs().max()),
            }
        return result


# Selective Amnesia


def labelled():
    """The packaged class-conditional model, and generated images with their labels: those to keep and those to forget."""
    denoiser = PipelineDenoiser.from_pipeline(load_pipeline(pipeline_folder("mnist-labels")))
    kept = [1 + k % 9 for k in range(IMAGES)]
    images = sample(denoiser, list(range(2 * IMAGES)), Sampler("ddim", steps=10), labels=[*kept, *[FORGET] * IMAGES])
    keep, forget = images.split(IMAGES)
    return denoiser, (keep, torch.tensor(kept)), (forget, torch.tensor([FORGET] * IMAGES))


class Amnesia:
    """Fisher and step of Selective Amnesia, ours and theirs, at T = 50."""

    def __init__(self, root: Path):
        self.root, (self.denoiser, self.keep, _) = root, labelled()
        _, other = self.published(self.denoiser)
        levels = (1 - other.betas).cumprod(0).double()  # as they round them
        self.denoiser = replace(self.denoiser, schedule=NoiseSchedule(levels))
        self.samples = list(zip(self.keep[0][:2], self.keep[1][:2].tolist(), strict=True))

    def published(self, denoiser, n_iters: int = 0):
        """Their module and object."""
        arguments = argparse.Namespace(ckpt_folder=".", n_chunks=1, label_to_forget=FORGET)
        return runner(self.root, "selective-amnesia/ddpm", denoiser, arguments, settings(T, n_iters))

    def their_fisher(self, denoiser, samples) -> tuple[dict, list]:
        """F by name, and the order of the samples."""
        module, other = self.published(denoiser)
        stored, data = {}, InMemory(samples)
        module.ImageFolder = lambda *_, **__: data
        module.pickle = SimpleNamespace(dump=lambda value, _: stored.update(value))
        other.save_fim()
        return {name.removeprefix("module.network."): value for name, value in stored.items()}, data.order

    def our_fisher(self, denoiser, samples, batch_size: int = T) -> AmnesiaFisher:
        """The state with F."""
        estimator = AmnesiaFisher(timesteps_per_sample=None, batch_size=batch_size)
        state = estimator.init(denoiser, n_items=len(samples), generator=torch.Generator().manual_seed(0))
        return take_all(estimator, state, samples, denoiser)

    def fisher(self, rounds: int) -> dict:
        """F of two samples."""
        exact = self.denoiser.copy()
        exact.network.double()
        samples = [(image.double(), label) for image, label in self.samples]
        stream = torch.Generator().manual_seed(0)
        with (
            workplace(exact),
            patch.object(torch, "randn_like", lambda x: torch.randn(x.shape, generator=stream, dtype=x.dtype)),
        ):
            theirs, order = self.their_fisher(exact, samples)
        found = self.our_fisher(exact, [samples[place] for place in order]).tensors["fisher"]
        entries = torch.cat([
            ((found[name] - each).abs() / each.clamp_min(1e-300)).flatten() for name, each in theirs.items()
        ])
        with workplace(self.denoiser):
            return {
                "values": {
                    "F": apart([found[name] for name in theirs], theirs.values()),
                    "F_median_entry": float(entries.median()),
                },
                "time": paired(
                    rounds,
                    lambda: timed(lambda: self.our_fisher(self.denoiser, self.samples)),
                    lambda: timed(lambda: self.their_fisher(self.denoiser, self.samples)),
                ),
                "memory": memory(
                    peak_of(self.denoiser, lambda: self.our_fisher(self.denoiser, self.samples)),
                    peak_of(self.denoiser, lambda: self.their_fisher(self.denoiser, self.samples)),
                ),
                "ours_by_steps_per_call": {
                    n: {
                        "seconds": statistics.median(
                            timed(lambda n=n: self.our_fisher(self.denoiser, self.samples, n)) for _ in range(3)
                        ),
                        "bytes": peak_of(self.denoiser, lambda n=n: self.our_fisher(self.denoiser, self.samples, n)),
                    }
                    for n in (10, 25, 40, T)
                },
            }

    def step(self, rounds: int) -> dict:
        """Steps of both around the same F."""
        estimator = AmnesiaFisher(timesteps_per_sample=None)
        state = self.our_fisher(self.denoiser, self.samples)
        stored = {f"module.network.{name}": value.float() for name, value in state.tensors["fisher"].items()}
        posterior = estimator.posterior(state)
        method = SelectiveAmnesia(posterior=posterior, replay="self").for_model(self.denoiser)
        method = method.prepare(self.denoiser, Tools(n_forget=IMAGES))
        unwanted = self.denoiser.condition([FORGET] * IMAGES)

        def draw(batch, denoiser=self.denoiser):
            """In the order of their draws, with their pairs of steps."""
            x, c = 2 * batch[0] - 1, batch[1]
            surrogate = (torch.rand(x.shape, dtype=torch.float32).to(x) - 0.5) * 2.0
            noise, other = torch.randn_like(x), torch.randn_like(x)
            t = torch.randint(0, T, (len(x) // 2 + 1,))
            t = torch.cat([t, T - 1 - t])[: len(x)]
            both = denoiser.schedule, denoiser.schedule
            return {
                "surrogate": noised_batch(surrogate, t, other, *both, condition=unwanted),
                "retain": noised_batch(x, t, noise, *both, condition={"class_labels": c}),
            }

        def theirs(feed, steps: int, denoiser=self.denoiser, losses: list | None = None) -> None:
            module, other = self.published(denoiser, steps)
            module.all_but_one_class_path_dataset = lambda *_: feed
            with noted_losses(module, [] if losses is None else losses):
                other.train_forget()

        def ours(feed, steps: int) -> None:
            our_steps(method, self.denoiser, feed, steps, draw)

        batch = (self.keep[0] + 1) / 2, self.keep[1]
        with workplace(self.denoiser) as folder:
            (folder / "fisher_dict.pkl").write_bytes(pickle.dumps(stored))
            measured = both_steps(rounds, ours, theirs, batch)
            torch.manual_seed(1)
            losses: list[float] = []
            with clipped() as seen:
                theirs(Feed(batch), 2, losses=losses)
        mine, found = self.denoiser.copy(), []
        torch.manual_seed(1)
        for k, (weights, gradients) in enumerate(seen):  # at the second step the penalty is not 0
            for value, given in zip(mine.network.parameters(), weights, strict=True):
                value.data.copy_(given)
                value.grad = None
            roles = draw(batch)
            with torch.no_grad():
                terms = method.losses(mine, roles).terms.values()
            losses_backward(method, mine, roles)
            found.append({
                "losses": apart(list(terms), losses[2 * k : 2 * k + 2]),
                "gradient": apart([value.grad for value in mine.network.parameters()], gradients),
            })  # fmt: skip
        values = {f"{name}, step {k + 1}": value for k, each in enumerate(found) for name, value in each.items()}
        return {"values": values, **measured}


# SalUn


class Saliency:
    """Mask and step of SalUn, ours and theirs."""

    def __init__(self, root: Path):
        self.root, (self.denoiser, self.keep, self.forget) = root, labelled()
        _, other = self.published(self.denoiser)
        self.denoiser = replace(self.denoiser, schedule=NoiseSchedule((1 - other.betas).cumprod(0).double()))
        self.half = IMAGES // 2  # images per batch of the mask

    def published(self, denoiser, n_iters: int = 0, mask: str | None = None):
        """Their module and object."""
        arguments = argparse.Namespace(
            ckpt_folder=".", label_to_forget=FORGET, cond_scale=0.0, method="rl", alpha=1e-3, mask_path=mask
        )
        return runner(self.root, "Unlearn-Saliency/DDPM", denoiser, arguments, settings(1000, n_iters))

    def their_mask(self, denoiser, images, labels) -> dict:
        """1 on the chosen half, by name."""
        module, other = self.published(denoiser)
        batches = list(zip(images.split(self.half), labels.split(self.half), strict=True))
        module.get_forget_dataset = lambda *_: (None, batches)
        stored = {}
        with patch.object(torch, "save", lambda value, _: stored.update(value)):
            other.generate_mask()
        return {name.removeprefix("module.network."): value for name, value in stored.items()}

    def our_mask(self, denoiser, images, labels) -> dict:
        """True on the chosen half, by name."""
        found = saliency(
            denoiser, images, torch.ones(1000), schedule=denoiser.schedule, condition={"class_labels": labels},
            batch_size=self.half, clip_norm=1.0, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        return top_share(found, 0.5)

    def mask(self, rounds: int) -> dict:
        """The mask of two batches."""
        exact = self.denoiser.copy()
        exact.network.double()
        images, labels = self.forget[0].double(), self.forget[1]
        stream, steps = torch.Generator().manual_seed(0), []

        def noise(x):
            return torch.randn(x.shape, generator=stream).to(x)

        def low(*_, size, **__):
            t = torch.tensor([100 * k + 7 * len(steps) for k in range(size[0])]) % 1000
            steps.append(torch.cat([t, 999 - t])[: self.half])
            return t

        with workplace(exact), patch.object(torch, "randn_like", noise), patch.object(torch, "randint", low):
            theirs = self.their_mask(exact, (images + 1) / 2, labels)
        queue = iter(steps)
        with patch.object(torch, "multinomial", lambda *_, **__: next(queue)):
            ours = self.our_mask(exact, images, labels)
        differ = sum(int((ours[name] != each.bool()).sum()) for name, each in theirs.items())
        arguments = self.denoiser, self.forget[0], labels
        published = self.denoiser, (self.forget[0] + 1) / 2, labels
        with workplace(self.denoiser):
            return {
                "values": {
                    "different_entries": differ,
                    "entries": sum(each.numel() for each in theirs.values()),
                },
                "time": paired(
                    rounds,
                    lambda: timed(lambda: self.our_mask(*arguments)),
                    lambda: timed(lambda: self.their_mask(*published)),
                ),
                "memory": memory(
                    peak_of(self.denoiser, lambda: self.our_mask(*arguments)),
                    peak_of(self.denoiser, lambda: self.their_mask(*published)),
                ),
            }

    def step(self, rounds: int) -> dict:
        """Steps of both under the same mask."""
        method = SalUn(mask_batch_size=self.half).for_model(self.denoiser, instead=True)
        labels = {"class_labels": self.forget[1]}
        tools = Tools(
            IMAGES, forget=self.forget[0], forget_condition=labels, substitute=self.denoiser.condition([FORGET + 1])
        )
        method = method.prepare(self.denoiser, tools)
        chosen = {f"module.network.{name}": each.long() for name, each in method._mask.items()}

        def draw(batch):
            """In the order of their draws, with their pairs of steps."""
            roles = {}
            for role, (x, c) in zip(("retain", "forget"), batch, strict=True):
                x = 2 * x - 1
                noise, t = torch.randn_like(x), torch.randint(0, 1000, (len(x) // 2 + 1,))
                t = torch.cat([t, 999 - t])[: len(x)]
                own = self.denoiser.schedule
                roles[role] = noised_batch(x, t, noise, own, own, condition={"class_labels": c})
            return roles

        def theirs(feed, steps: int, losses: list | None = None) -> None:
            module, other = self.published(self.denoiser, steps, "mask.pt")
            forget = ((self.forget[0] + 1) / 2, self.forget[1])
            remain = ((x, c) for (x, c), _ in feed)
            module.get_forget_dataset = lambda *_: (remain, [forget])
            with noted_losses(module, [] if losses is None else losses):
                other.saliency_unlearn()

        def ours(feed, steps: int) -> None:
            our_steps(method, self.denoiser, feed, steps, draw)

        batch = tuple(((x + 1) / 2, c) for x, c in (self.keep, self.forget))
        with workplace(self.denoiser) as folder:
            torch.save(chosen, folder / "mask.pt")
            measured = both_steps(rounds, ours, theirs, batch)
            losses: list[float] = []

            class Criterion(nn.MSELoss):
                def forward(self, *args):
                    value = super().forward(*args)
                    losses.append(float(value))
                    return value

            torch.manual_seed(1)
            with clipped() as seen, patch.object(torch.nn, "MSELoss", Criterion):
                theirs(Feed(batch), 1, losses)
        torch.manual_seed(1)
        mine, roles = self.denoiser.copy(), draw(batch)
        terms = method.losses(mine, roles).terms
        losses_backward(method, mine, roles)
        return {
            "values": {
                "forget_loss": apart([terms["forget"].detach()], losses[1:]),
                "retain_loss": apart([terms["retain"].detach()], [1e-3 * losses[0]]),
                "gradient": apart([value.grad for value in mine.network.parameters()], seen[0][1]),
            },
            **measured,
        }


COMPARED = {
    "siss step": lambda root, rounds: Deletion(root).step(rounds),
    "siss weights": lambda root, _: Deletion(root).saturation(),
    "selective amnesia fisher": lambda root, rounds: Amnesia(root).fisher(rounds),
    "selective amnesia step": lambda root, rounds: Amnesia(root).step(rounds),
    "salun mask": lambda root, rounds: Saliency(root).mask(rounds),
    "salun step": lambda root, rounds: Saliency(root).step(rounds),
}


def commits(root: Path) -> dict:
    """The commit of each folder; None where git does not know."""
    found = {}
    for folder in PEERS:
        answer = subprocess.run(["git", "-C", str(root / folder), "rev-parse", "HEAD"], capture_output=True, text=True)
        found[folder] = answer.stdout.strip() or None
    return found


def record(root: Path, rounds: int, cells: dict) -> dict:
    """What was found so far, in the order of the parts, and where."""
    return {
        "command": f"python benchmarks/against_peers.py --peer-root DIR --rounds {rounds}",
        "published_commits": commits(root),
        "threads": torch.get_num_threads(),
        "images_per_role": IMAGES,
        "cells": {name: cells[name] for name in COMPARED if name in cells},
        "environment": environment(),
    }


def main():
    """Check, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer-root", type=Path, required=True, metavar="DIR", help="the folder with the published code"
    )
    parser.add_argument("--rounds", type=int, default=7, help="pairs of measurements, after one that warms up")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=[*COMPARED], help="one of them; the others in the JSON file stay as they are")
    given = parser.parse_args()
    root = given.peer_root.resolve()
    require_peers(root)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # theirs would take a GPU
    kept = given.only and given.json is not None and given.json.is_file()
    cells = json.loads(given.json.read_text("utf-8"))["cells"] if kept else {}
    for name in [given.only] if given.only else COMPARED:
        cells[name] = COMPARED[name](root, given.rounds)
        print(name, json.dumps(cells[name]), flush=True)
        if given.json is not None:
            write_json(given.json, record(root, given.rounds, cells))


if __name__ == "__main__":
    main()
