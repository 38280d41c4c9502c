"""The members of a fine-tuned ensemble: K short fine-tunings of one model with different seeds, on images with their conditions."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.processes import first_decides, is_first
from vdu.core.records import atomic_file
from vdu.core.rng import derive_seed
from vdu.data.images import ImageSet
from vdu.models.denoiser import PipelineDenoiser
from vdu.models.lora import sharing_copy
from vdu.posterior.ensemble import FinetunedEnsemble
from vdu.training.loop import TrainSettings
from vdu.training.pretraining import fit
from vdu.unlearning.effect import forget_predictions, require_finite

__all__ = ["FILE", "fine_tuned_members", "require_same_members"]

FILE = "weights.safetensors"  # of a member, what trains alone


def fine_tuned_members(
    how: FinetunedEnsemble,
    denoiser: PipelineDenoiser,
    images: ImageSet,
    *,
    seed: int,
    folder: Path | None = None,
    identity: str = "",
) -> Iterator[dict[str, Tensor]]:
    """Fine-tune one member after another.

    Args:
        how: number, steps, rate and batch size.
        denoiser: the pre-trained model, with gradients for what trains; unchanged.
        images: to train on, with labels if the model is conditional.
        seed: seeds the members.
        folder: each member is stored in ``members/`` here and not repeated; None writes nothing.
        identity: of everything that the members depend on, for :func:`require_same_members`.

    Yields:
        Each member's weights, by name; those that train alone. One that diverged is not stored, also if it did in its last step.
    """
    for k in range(how.n_members):
        target = folder / "members" / str(k) if folder else None
        file = target / FILE if target else None
        if file is not None and first_decides("stored member", file.is_file):
            yield load_file(file)
            continue
        made = _fine_tuned(how, denoiser, images, derive_seed(seed, "member", k), k, target)
        if file is not None and is_first():
            with atomic_file(file) as temporary:
                save_file(
                    {name: value.cpu().contiguous() for name, value in made.items()}, temporary, {"identity": identity}
                )
        yield made


def require_same_members(folder: Path, identity: str) -> None:
    """Refuse stored members of another ensemble.

    Args:
        folder: as for :func:`fine_tuned_members`.
        identity: likewise.

    Raises:
        InputError: if a member was made with other settings, other images or of another model.
    """
    for file in sorted(folder.glob(f"members/*/{FILE}")):
        with safe_open(file, "pt") as stored:
            known = (stored.metadata() or {}).get("identity")
        if known is None:
            raise InputError(
                f"{file}: was made by an earlier version, which did not record with what settings; start anew with --overwrite."
            )
        if known != identity:
            raise InputError(
                f"{file}: was made with other settings, data or model than the present ones; a resumed run must have the same. Use the "
                "settings in the run's config.toml, or start anew with --overwrite."
            )


def _fine_tuned(
    how: FinetunedEnsemble, denoiser: PipelineDenoiser, images: ImageSet, seed: int, k: int, target: Path | None
) -> dict[str, Tensor]:
    member = denoiser.with_network(sharing_copy(denoiser.network))
    settings = TrainSettings(
        steps=how.finetune_steps, learning_rate=how.finetune_learning_rate, seed=derive_seed(seed, "training"),
        checkpointing_steps=max(how.finetune_steps // 4, 1),
    )  # fmt: skip
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
    title = f"fine-tuning, member {k}" if target else None
    fit(
        member, images, settings, batch_size=how.finetune_batch_size, seed=seed, folder=target, resume=target is not None, progress=title
    )  # fmt: skip
    require_finite(forget_predictions(member, images), how.finetune_steps)
    return {name: value.detach() for name, value in member.trainable().items()}
