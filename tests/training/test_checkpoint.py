import errno
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from vdu.core.errors import InputError
from vdu.training import checkpoint
from vdu.training.checkpoint import latest_checkpoint, list_checkpoints, load_checkpoint, load_weights, save_checkpoint
from vdu.training.ema import ExponentialMovingAverage
from vdu.training.loop import TrainSettings, train


def stepped(network):
    """An optimiser that has made two steps, and an average."""
    optimizer = torch.optim.AdamW(network.parameters(), 0.1, fused=True)
    ema = ExponentialMovingAverage(network.named_parameters(), 0.9)
    for step in range(2):
        optimizer.zero_grad()
        network(torch.full((2, 3), step + 1.0, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        ema.update(network.named_parameters(), step)
    return optimizer, ema


def save(folder, step, network, optimizer, ema, **options):
    options = {"fingerprint": "abc", "extra": {"scaler": None}} | options
    return save_checkpoint(folder, step, network, optimizer, ema, **options)


def test_everything_comes_back(make_network, tmp_path):
    network, fresh = make_network(), make_network()
    optimizer, ema = stepped(network)
    path = save(tmp_path, 2, network, optimizer, ema)
    other, other_ema = (
        torch.optim.AdamW(fresh.parameters(), 0.1, fused=True),
        ExponentialMovingAverage(fresh.named_parameters(), 0.9),
    )
    assert load_checkpoint(path, fresh, other, other_ema, fingerprint="abc") == (2, {"scaler": None})
    for left, right in ((network.state_dict(), fresh.state_dict()), (ema.shadow, other_ema.shadow)):
        assert all(torch.equal(left[name], right[name]) for name in left)
    for place, state in optimizer.state_dict()["state"].items():
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in state.items():
            assert torch.equal(other.state_dict()["state"][place][name], value)
    average, raw = load_weights(path, fresh, average=True), load_weights(path, fresh)
    assert all(torch.equal(average[name], ema.shadow[name]) for name in average)
    assert all(torch.equal(raw[name], network.state_dict()[name]) for name in raw)


def test_checkpoints_are_ordered_by_number_and_half_written_ones_are_not_seen(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    for name in ("checkpoint-9", "checkpoint-10", ".checkpoint-11.77.tmp", "checkpoint-best", ".checkpoint-10.77.old"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_the_oldest_are_pruned(make_network, tmp_path):
    network = make_network()
    optimizer, ema = stepped(network)
    for step in (8, 9, 10, 11):
        save(tmp_path, step, network, optimizer, ema, total_limit=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-11"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "ema.safetensors"])
@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_flipped_byte_is_noticed(make_network, tmp_path, name, place):
    network = make_network()
    optimizer, ema = stepped(network)
    path = save(tmp_path, 2, network, optimizer, ema)
    content = bytearray((path / name).read_bytes())
    content[place] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(
        InputError, match=rf"{name}: missing or damaged.*Delete checkpoint-2 to resume from the checkpoint before"
    ):
        load_checkpoint(path, network, optimizer, ema, fingerprint="abc")
    (path / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: missing or damaged"):
        load_checkpoint(path, network, optimizer, ema, fingerprint="abc")


def test_another_run_is_refused(make_network, tmp_path):
    network = make_network()
    optimizer, ema = stepped(network)
    path = save(tmp_path, 2, network, optimizer, ema)
    with pytest.raises(InputError, match="was written with other settings, data or model"):
        load_checkpoint(path, network, optimizer, ema, fingerprint="abd")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"step": 3}, r"state\.json: damaged\. Delete checkpoint-2"),
        (lambda state: {key: value for key, value in state.items() if key != "sha256"}, r"state\.json: damaged"),
        (lambda state: state | {"format_version": 2}, "not a checkpoint of format 1"),
        (lambda state: [state], "not a checkpoint of format 1"),
        (lambda state: state | {"fingerprint": "abd"}, r"state\.json: damaged\. Delete checkpoint-2"),
    ],
)
def test_a_changed_record_is_refused(make_network, tmp_path, change, message):
    network = make_network()
    optimizer, ema = stepped(network)
    path = save(tmp_path, 2, network, optimizer, ema)
    (path / "state.json").write_text(json.dumps(change(json.loads((path / "state.json").read_text()))))
    with pytest.raises(InputError, match=message):
        load_checkpoint(path, network, optimizer, ema, fingerprint="abc")


def test_another_architecture_is_refused_with_the_first_differences(make_network, tmp_path):
    network = make_network()
    path = save(tmp_path, 2, network, *stepped(network))
    wider = nn.Sequential(nn.Linear(3, 5), nn.Tanh())
    with pytest.raises(
        InputError,
        match=r"weights of another model: 0\.bias: got shape \(4,\), expected \(5,\); 0\.weight.*3\.bias: unexp",
    ):
        load_weights(path, wider)


def test_a_full_disk_in_the_middle_of_a_checkpoint_keeps_the_last_one(
    make_network, make_batches, regression, tmp_path, monkeypatch
):
    settings = TrainSettings(steps=6, learning_rate=0.02, ema_decay=0.9, checkpointing_steps=2)
    truth, network, resumed = make_network(), make_network(), make_network()
    train(truth, regression(), make_batches(), settings)
    real, calls = checkpoint.save_file, []

    def full(tensors, path):
        calls.append(path.name)
        if len(calls) == 5:  # the optimiser's file of the second checkpoint
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        train(network, regression(), make_batches(), settings, folder=tmp_path)
    assert calls[4] == "optimizer.safetensors"
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-2"]
    monkeypatch.setattr(checkpoint, "save_file", real)
    train(resumed, regression(), make_batches(), settings, folder=tmp_path, resume=True)
    assert all(torch.equal(value, truth.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_before_the_first_step_the_optimiser_is_empty(make_network, tmp_path):
    network = make_network()
    path = save(tmp_path, 0, network, torch.optim.AdamW(network.parameters()), None)
    assert load_file(path / "optimizer.safetensors") == {}
    assert not (path / "ema.safetensors").exists()
    assert load_checkpoint(path, network, torch.optim.AdamW(network.parameters()), None, fingerprint="abc")[0] == 0
