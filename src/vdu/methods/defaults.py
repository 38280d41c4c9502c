"""The methods' names, and the training that suits each where the user gives none. Standard library only."""

from typing import Any, Literal, get_args

__all__ = ["DEFAULTS", "METHODS", "UnlearnMethod"]

UnlearnMethod = Literal[
    "auto", "distillation", "retrack", "anchor", "bounded", "conflict-free", "vdu", "ascent", "selective-amnesia", "esd", "salun",
    "erasediff", "siss", "finetune",
]  # fmt: skip
METHODS = get_args(UnlearnMethod)

_ALL: dict[str, Any] = {
    "n_own_samples": 1500, "warmup_steps": 0, "ema_decay": 0.0, "scheduler": "ddpm", "inference_steps": 20,
}  # fmt: skip
_PAPER = _ALL | {"steps": 60, "batch_size": 128, "learning_rate": 1e-6}
_CHOSEN = _ALL | {  # on the digit 8 of the packaged model (docs/methods-log.md)
    "steps": 450, "batch_size": 32, "learning_rate": 1.5e-4, "warmup_steps": 10, "max_grad_norm": 0.5, "ema_decay": 0.98,
}  # fmt: skip
_AVERAGED = _CHOSEN | {"steps": 600, "ema_decay": 0.995}
_UNTUNED = _ALL | {"steps": 200, "batch_size": 64, "learning_rate": 1e-5}

DEFAULTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("auto", "distillation"), _AVERAGED),
    "retrack": _CHOSEN,
    **dict.fromkeys(("vdu", "ascent", "selective-amnesia"), _PAPER),
    **dict.fromkeys(("anchor", "bounded", "conflict-free", "esd", "salun", "erasediff", "siss", "finetune"), _UNTUNED),
}
