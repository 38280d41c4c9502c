"""What an unlearning gives: the new pipeline and the record of how it was made."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError, shown
from vdu.core.paths import given_output
from vdu.core.processes import say
from vdu.core.ranges import require_flags, require_kind
from vdu.core.records import atomic_file, read_json
from vdu.core.surroundings import own_torch
from vdu.data.images import ImageSet
from vdu.models.adapt import family_of
from vdu.models.identity import weights_sha256
from vdu.models.lora import corrections_sha256, save_lora
from vdu.models.pipelines import EXTRA_FILE, configuration_of, network_of, parts_of
from vdu.models.saving import save_pipeline, tokenizer_files, weight_files
from vdu.replay.auxiliaries import Auxiliaries
from vdu.replay.stopping import FEWEST, Stopping
from vdu.reporting.card import write_card
from vdu.reporting.code_texts import guarantee_text, stopping_text
from vdu.training.loop import TrainResult
from vdu.unlearning.effect import UNMOVED
from vdu.unlearning.plan import Plan

__all__ = ["UnlearnResult"]


@dataclass(frozen=True)
class UnlearnResult:
    """Result of unlearning; its ``repr`` is two lines, and a third one if there is a warning.

    Attributes:
        pipeline: the new pipeline; the given one is unchanged.
        training: the result of the training loop.
        network_evaluations: forward 1 and backward 2 per image, including generated samples, auxiliary models, a posterior that
            was fitted, and the stopping rule; small classifiers count by their FLOPs relative to the model.
        plan: what was made to forget what, and how.
        aids: the auxiliary data and models of the method.
        stopping: outcome of the stopping rule, or None without a rule.
        seconds: duration; of a run that was resumed that of all parts, as are the network evaluations.
        cost_is_at_least: whether an interruption lost a part of both.
        folder: the run folder, or None.
        trained: the network as it was trained, with low-rank corrections if there are any.
        prediction_change: how far the predictions for forget images moved, relative to their length
            (:mod:`vdu.unlearning.effect`).
        original_sha256: of the weights of the original as it was then.
        original_parts: of its other parts (:func:`vdu.models.identity.parts_sha256`).
        pipeline_sha256: of the new weights.
        pipeline_configuration: SHA-256 of the new pipeline's options.
        pipeline_parts: SHA-256 of the new pipeline's text encoders and autoencoder, if it has any.
        inputs: names and hashes of the model and the forget set as they were then (:meth:`vdu.unlearning.plan.Plan.inputs`).
        trained_sha256: of the low-rank corrections of ``trained``, if there are any.
    """

    pipeline: Any
    training: TrainResult
    network_evaluations: int
    plan: Plan
    aids: Auxiliaries | None = None
    stopping: Stopping | None = None
    seconds: float = 0.0
    folder: Path | None = None
    trained: Any = None
    prediction_change: float | None = None
    original_sha256: str | None = None
    original_parts: str | None = None
    pipeline_sha256: str | None = None
    pipeline_configuration: str | None = None
    pipeline_parts: str | None = None
    inputs: dict[str, Any] | None = None
    trained_sha256: str | None = None
    cost_is_at_least: bool = False

    @property
    def method(self) -> Any:
        """The method."""
        return self.plan.chosen.method

    @property
    def original(self) -> Any:
        """The pipeline before unlearning."""
        return self.plan.pipeline

    @property
    def forget(self) -> ImageSet:
        """The forget set."""
        return self.plan.forget

    @property
    def forget_classes(self) -> tuple[str, ...]:
        """The names of the forgotten classes; empty if the images have none."""
        return self.plan.classes

    @property
    def ending(self) -> str:
        """Why training ended: the outcome of the stopping rule, or why there was none; one sentence without a full stop."""
        if self.stopping is None:
            return self._without_a_rule()
        in_words = bool(self.plan.prompts)  # a substitute leads there, and nothing repels
        strength = tuple(name for name in self.method.strength if not (in_words and name == "repulsion_scale"))
        return stopping_text(asdict(self.stopping), strength, in_words=in_words)

    @property
    def statement(self) -> str:
        """What the run states about the model's own unwanted seeds, without a full stop; empty without a stopping rule."""
        return "" if self.stopping is None else guarantee_text(asdict(self.stopping))

    def _without_a_rule(self) -> str:
        if not self.method.stops:
            reason = f"the method {self.method.name} has no stopping rule"
        elif self.plan.full_length:
            reason = "the stopping rule was off (full length)"
        else:
            held = self.aids.held_out if self.aids else None
            there = f"there were {len(held.seeds)}" if held and held.n_drawn else "so many were not expected"
            reason = f"the stopping rule needs {FEWEST} held-out samples that are unwanted, and {there}; draw more (--n-own-samples)"
        n = self.training.steps
        return f"{f'all {n} steps were' if n > 1 else 'its one step was'} taken: {reason}"

    @property
    def warning(self) -> str | None:
        """What to know if the training had next to no effect on the forget set, or None."""
        change = self.prediction_change
        if change is None or change >= UNMOVED:
            return None
        return (
            f"warning: the predictions for the forget set moved by {change:.1e} of their length (below {UNMOVED:.0e}): the images "
            "stay what they were. Raise --learning-rate or --steps, or train more of the model (--train)."
        )

    def __repr__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        time = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        least = "at least " if self.cost_is_at_least else ""
        steps = f"{self.training.steps} of {self.plan.training.steps} steps"
        return (
            f"UnlearnResult: {self.method.name}, {steps}, {least}{time}, {self.network_evaluations:,} network evaluations\n"
            f"  {self._end()}" + (f"\n  {self.warning}" if self.warning else "")
        )

    def _end(self) -> str:
        rule = self.stopping
        if rule is None:
            return self.ending
        early = rule.reason == "forgotten" and rule.step < self.plan.training.steps
        return f"{'stopped early' if early else 'all steps were done'}: {self.statement or self.ending}"

    def is_out_of_date(self) -> bool:
        """Whether this result and what it was made of, or its run folder, are no longer of the same weights.

        Returns:
            True if the folder holds another run by now, or the pipeline (without a folder: the original, or the forget set) was changed.
        """
        if self.folder is None:
            options = (self.inputs or {}).get("model", {}).get("configuration_sha256")
            return (
                self._was_changed()
                or self.original_sha256 not in {None, weights_sha256(network_of(self.original))}
                or self.original_parts not in {None, parts_of(self.original)}
                or options not in {None, configuration_of(self.original)}
                or (self.inputs is not None and self.inputs["forget"]["sha256"] != self.forget.sha256)
            )
        path = self.folder / "run.json"
        recorded = (
            read_json(path).get("pipeline") if path.is_file() else None
        )  # without one the folder itself is refused
        if not recorded:
            return False
        others = (
            (recorded.get("configuration_sha256", self.pipeline_configuration), configuration_of),
            (recorded.get("parts_sha256", self.pipeline_parts), parts_of),
        )
        return recorded["sha256"] != weights_sha256(network_of(self.pipeline)) or any(
            known is not None and known != of(self.pipeline) for known, of in others
        )

    def _was_changed(self) -> bool:
        """Whether the pipeline has other weights or options than those that were made."""
        return (
            self.pipeline_sha256 not in {None, weights_sha256(network_of(self.pipeline))}
            or self.pipeline_configuration not in {None, configuration_of(self.pipeline)}
            or self.pipeline_parts not in {None, parts_of(self.pipeline)}
        )

    @own_torch()
    def save_pretrained(self, folder: Path | str) -> None:
        """Save the new pipeline for plain diffusers, with a model card.

        Args:
            folder: where; made if needed. The card of a run folder that still holds this pipeline, with the figures of its
                evaluation, is copied. A file is refused, and a folder where the original's weights would stay beside the new ones, such as
                those of a variant.
        """
        folder = _folder(folder)
        path = self.folder / "pipeline" / "README.md" if self.folder and not self.is_out_of_date() else None
        card = (
            path.read_bytes() if path and path.is_file() else None
        )  # may lie in this folder, which loses a card of ours
        save_pipeline(self.pipeline, folder)
        there = Path(folder) / "README.md"
        if there.is_file() and there.read_bytes() != card:  # a card of ours is gone by now
            say(f"vdu: {there}, which described another model, was replaced by the model card.")
        if card is not None:
            with atomic_file(there) as temporary:
                temporary.write_bytes(card)
        else:
            remaining = self.statement
            if self._was_changed():
                remaining = "not known: this pipeline was changed after the run, which the rest of this card describes"
                say(
                    "vdu: warning: the pipeline was changed after the run; its model card says so, and describes the run."
                )
            write_card(Path(folder), self.inputs or self.plan.inputs(), self.method.name, self.plan.told(), remaining)

    def save_lora(self, folder: Path | str) -> Path:
        """Save the low-rank corrections alone, for ``load_lora_weights`` of the original pipeline in plain diffusers.

        Args:
            folder: where; made if needed.

        Returns:
            The file. A model that was not trained with LoRA is refused (:func:`vdu.models.lora.save_lora`).

        Raises:
            InputError: if the pipeline, or the corrections, were changed after the run.
        """
        if self._was_changed() or self.trained_sha256 not in {None, self.trained and corrections_sha256(self.trained)}:
            raise InputError(
                "save_lora: the pipeline was changed after the run, and the corrections are those of the run; expected the pipeline as it "
                "was made. Save the whole pipeline with save_pretrained."
            )
        return save_lora(self.trained, _folder(folder), family_of(self.pipeline).NETWORK)

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the new pipeline with its model card to the Hugging Face Hub; nothing else of the run.

        Older weights of its parts, in any form and variant, are removed from the repository, so that nobody loads them for the new ones;
        the repository's history keeps them.

        Args:
            repo_id: "owner/name"; made if there is none.
            private: whether a repository that is made is private.
            token: of your account; by default the one of ``hf auth login``.

        Returns:
            The address of the repository.

        Raises:
            InputError: if the Hub refuses or is out of reach, or an argument is of another kind.
        """
        from huggingface_hub import HfApi

        if not isinstance(repo_id, str):
            raise InputError(f"repo_id: got {shown(repo_id)}; expected owner/name.")
        require_flags({"private": private}, "private")
        require_kind("token", token, str, "a token, or None")
        if token is not None and token.split() != [token]:  # never shown
            raise InputError("token: is empty or has white space in it; expected the token alone, or None.")
        hub = HfApi(token=token)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)  # what cannot be saved makes no repository
            where = _uploaded(hub.create_repo, repo_id=repo_id, private=private, exist_ok=True)
            _uploaded(
                hub.upload_folder, repo_id=repo_id, folder_path=folder, commit_message="Unlearned with vdu",
                delete_patterns=[EXTRA_FILE, *weight_files(self.pipeline), *tokenizer_files(self.pipeline)],
            )  # fmt: skip
        return str(where)


def _uploaded(call: Callable[..., Any], **named: Any) -> Any:
    """What a call of the Hub gives.

    Returns:
        Its result.

    Raises:
        InputError: if it fails, for whatever reason: a refusal, no connection, offline mode, a token that is none.
    """
    try:
        return call(**named)
    except Exception as error:
        raise InputError(
            f"push_to_hub: {shown(named['repo_id'])} was not uploaded ({str(error) or type(error).__name__}). Log in with `hf auth login`, "
            "check the connection, and give owner/name."
        ) from None


def _folder(given: Any) -> Path:
    """A folder to save something in.

    Returns:
        Its path.

    Raises:
        InputError: if it is a file, or no path.
    """
    if not isinstance(given, str | Path) or Path(given).is_file():
        raise InputError(f"folder: got {shown(given)}; expected the path of a folder.")
    return given_output(given, "folder")
