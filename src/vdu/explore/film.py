"""Denoising of one seed as a sequence of frames: a preview, drawn in batches of one.

    x̂0 = (x_t − √(1−ᾱ) ε) / √ᾱ        ε network       x̂0 = √ᾱ x_t − √(1−ᾱ) v        v network

Symbols: x_t the network's input; x̂0 the predicted clean image; ᾱ the schedule's cumulative signal variance. There is
no second sampling loop: :func:`vdu.diffusion.sampling.sample` runs with a denoiser that reports its inputs and outputs,
in a thread that waits until each image has been consumed.

Not guaranteed: the bits of the stored images, which an evaluation draws in larger micro-batches (float32 sums depend on the size of
a batch); that x̂0 lies in [−1, 1] at early steps (the displayed image is clamped).
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from queue import Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from vdu.core.types import Condition, Denoiser, column
from vdu.data.images import to_uint8
from vdu.diffusion.guidance import combined
from vdu.diffusion.prediction import clean_of
from vdu.diffusion.sampling import Sampler, sample
from vdu.models.denoiser import DenoiserAround

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Frame", "WatchedDenoiser", "denoise", "side_by_side"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One moment of denoising.

    Attributes:
        step: steps of the sampler so far, from 1.
        steps: steps of the sampler in all.
        timestep: the model's own timestep; None for the finished image.
        noisy: x_t that the network saw, uint8 [H, W, C]; of the finished image, the image.
        expected: x̂0, uint8 [H, W, C]; of the finished image, the image.
    """

    step: int
    steps: int
    timestep: int | None
    noisy: "np.ndarray"
    expected: "np.ndarray"

    @property
    def finished(self) -> bool:
        """Whether this is the image that the sampler returns."""
        return self.timestep is None


@dataclass(frozen=True)
class WatchedDenoiser(DenoiserAround):
    """A denoiser that reports every evaluation.

    Attributes:
        model: the denoiser.
        watch: called with x_t, the timesteps and the raw output after each evaluation.
    """

    model: Denoiser
    watch: Callable[[Tensor, Tensor, Tensor], None]

    def raw(self, x_t: Tensor, timestep: Tensor, condition: Condition | None = None) -> Tensor:
        """The raw output of the network, after it is reported."""
        output = self.model.raw(x_t, timestep, condition)
        self.watch(x_t, timestep, output)
        return output


class _LeftError(Exception):
    """Raised in the sampling thread when the frames are no longer consumed."""


def denoise(denoiser: Denoiser, seed: int, sampler: Sampler, asked: str | None = None) -> Generator[Frame, None, None]:
    """Frames of one image during denoising.

    Args:
        denoiser: the model.
        seed: of the image.
        sampler: the protocol; its micro-batch becomes one image.
        asked: the prompt or label; None takes that of the seed.

    Yields:
        A frame per step of the sampler, then the finished image.
    """
    sampler = replace(sampler, microbatch_size=1)
    steps = len(sampler.make(denoiser).timesteps)
    shelf: Queue[Any] = Queue(maxsize=1)
    left = Event()

    def put(item: Any) -> None:
        while not left.is_set():
            try:
                return shelf.put(item, timeout=0.1)
            except Full:
                continue
        raise _LeftError

    done, labels = 0, None if asked is None else [asked]
    twice = sampler.evaluations(denoiser) > sampler.steps  # guidance asks first without the condition
    unguided: list[Tensor] = []

    def watch(x_t: Tensor, timestep: Tensor, output: Tensor) -> None:
        nonlocal done
        if twice and not unguided:
            unguided.append(output)
            return
        if twice:
            assert sampler.guidance_scale is not None
            output = combined(unguided.pop(), output, sampler.guidance_scale, x_t.shape[1])
        done += 1
        alpha, sigma = (column(each, x_t) for each in denoiser.schedule.coefficients_at(timestep[:1], x_t))
        expected = clean_of(denoiser.prediction_type, output[:1, : x_t.shape[1]], x_t[:1], alpha, sigma)
        put(Frame(done, steps, int(timestep[0]), _pixels(denoiser.decode(x_t[:1])), _pixels(denoiser.decode(expected))))

    def work() -> None:
        try:
            image = _pixels(sample(cast("Denoiser", WatchedDenoiser(denoiser, watch)), [seed], sampler, labels=labels))
            put(Frame(done, steps, None, image, image))
        except _LeftError:
            return
        except BaseException as error:  # it is raised again, in the thread that watches
            put(error)

    thread = Thread(target=work, daemon=True, name="denoise")
    thread.start()
    try:
        while True:
            item = shelf.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if item.finished:
                return
    finally:
        left.set()
        thread.join()


def side_by_side(
    before: Denoiser, after: Denoiser, seed: int, sampler: Sampler, asked: str | None = None
) -> Generator[tuple[Frame, Frame], None, None]:
    """Two models from the same noise, step by step.

    Args:
        before: a model.
        after: another of the same shape and schedule length.
        seed: of the noise.
        sampler: the protocol, the same for both.
        asked: the prompt or label, likewise; None takes that of the seed.

    Yields:
        A frame of each.
    """
    with ExitStack() as stack:
        frames = [stack.enter_context(closing(denoise(each, seed, sampler, asked))) for each in (before, after)]
        yield from zip(*frames, strict=True)


def _pixels(images: Tensor) -> "np.ndarray":
    """The first image as uint8 [H, W, C]."""
    return to_uint8(images[0].detach().float().cpu()).permute(1, 2, 0).numpy()
