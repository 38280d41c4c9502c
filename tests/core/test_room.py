"""More images than memory holds are refused wherever a number of images is given, before one is drawn."""

import pytest
import torch

import vdu
from vdu.core import room
from vdu.core.errors import InputError
from vdu.core.room import require_room
from vdu.data.images import ImageSet

FORGET = ImageSet(torch.zeros(50, 1, 8, 8, dtype=torch.uint8))


def test_the_largest_number_has_room_and_one_more_has_not(monkeypatch):
    monkeypatch.setattr(room, "_memory", lambda: 6400)
    require_room("n", 100, (1, 8, 8))
    require_room("n", 25, (1, 8, 8), room.FLOATS)
    for n, bytes_each in ((101, room.PIXELS), (26, room.FLOATS)):
        with pytest.raises(InputError, match=f"n: got {n} images of 1×8×8.*; expected at most {n - 1}"):
            require_room("n", n, (1, 8, 8), bytes_each)
    with pytest.raises(InputError, match=r"n: got 10\^400 or so images of 1×8×8, which take 10\^393 or so GiB"):
        require_room("n", 10**400, (1, 8, 8), room.FLOATS)


@pytest.mark.parametrize("n", [9 * 10**18, 10**30, 10**400])
def test_no_command_and_no_function_begins_to_draw_so_many(make_pipeline, tmp_path, command, capsys, n):
    pipe = make_pipeline()
    for seeds in (n, range(n), range(n, 0, -1)):
        with pytest.raises(InputError, match="seeds: got"):
            vdu.sample(pipe, seeds)
    if n > 2**63:
        return
    pair = {"before": pipe, "after": make_pipeline(seed=1), "forget": FORGET}
    for name in ("n_images", "n_judge_samples"):
        with pytest.raises(InputError, match=f"^{name}: got 9e.18 images of 1×8×8"):
            vdu.evaluate(**pair, **{name: n})
    with pytest.raises(InputError, match="^n_own_samples: got 9e.18 images"):
        vdu.unlearn(pipe, forget=FORGET, n_own_samples=n, progress=None)
    with pytest.raises(InputError, match="^n_samples: got 9e.18 images"):
        vdu.fit_posterior(pipe, "fisher", generator=torch.Generator(), n_train=9, n_samples=n)
    pipe.save_pretrained(tmp_path / "model")
    for verb, option, more in (("sample", "--n-images", ()), ("posterior", "--n-samples", ("--n-train", 9))):
        first = ("fisher", "--pipeline") if verb == "posterior" else ()
        assert command(verb, *first, tmp_path / "model", option, n, *more, "-o", tmp_path / verb) == 2
        assert f"{option}: got 9e+18 images" in capsys.readouterr().err and not (tmp_path / verb).exists()
