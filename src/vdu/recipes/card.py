"""The model card of an unlearned pipeline: what was forgotten, from what, how; without one image of the forget set."""

from pathlib import Path
from typing import Any

__all__ = ["write_card"]

TEXT = """
# {title}

An unconditional diffusion model after approximate machine unlearning with `vdu`: it was made from a pre-trained model to
no longer generate the images described below, from those images alone. **Approximate, not certified**: see the evidence
report of the run for how far it went and what was not tested.

| | |
|---|---|
| forgotten | {forgotten} ({n_images} images, SHA-256 `{forget_sha256}`) |
| made from | weights with SHA-256 `{model_sha256}` |
| method | {method} |
| settings | {settings} |

Loads in plain diffusers: `DiffusionPipeline.from_pretrained(...)`.
"""


def write_card(folder: Path, inputs: dict[str, Any], method: str, settings: dict[str, Any]) -> None:
    """Write ``README.md`` with front matter into a pipeline's folder.

    Args:
        folder: the pipeline's folder.
        inputs: the run's record of what went in.
        method: the method's name.
        settings: the settings worth telling.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name="diffusers",
        tags=["diffusion", "unconditional-image-generation", "machine-unlearning", "vdu", method],
    )
    forget = inputs["forget"]
    text = TEXT.format(
        title=f"Unlearned: {', '.join(forget['classes']) or forget['description']}",
        forgotten=forget["description"],
        n_images=forget["n_images"],
        forget_sha256=forget["sha256"],
        model_sha256=inputs["model"]["sha256"],
        method=method,
        settings=", ".join(f"{name} {value}" for name, value in settings.items()),
    )
    (folder / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n{text}", encoding="utf-8")
