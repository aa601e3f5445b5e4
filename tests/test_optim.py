"""Parameter groups, rates, schedule and the average of the weights, against definitions worked by hand and torch's."""

import io

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

import tubelet
from tubelet import optim, regularize
from tubelet.models import MODELS

KINDS = {}
for preset in MODELS:
    KINDS.setdefault(preset.build, preset.name)


@pytest.mark.parametrize("name", KINDS.values())
def test_each_parameter_is_there_once(name):
    with torch.device("meta"):
        model = tubelet.create(name, num_classes=5)
    groups = optim.parameter_groups(model, 0.1, 0.05, layer_decay=0.75, head_factor=10.0)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found)) and set(found) == {id(parameter) for parameter in model.parameters()}
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    convolved = [module for module in model.modules() if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.Linear)]
    assert decayed == {id(module.weight) for module in convolved}


def rates(model, **arguments):
    groups = optim.parameter_groups(model, 1.0, 0.05, **arguments)
    by_id = {id(parameter): group for group in groups for parameter in group["params"]}
    assert all(group["lr"] == group["initial_lr"] for group in groups)
    return {name: by_id[id(parameter)]["lr"] for name, parameter in model.named_parameters()}


def test_the_rate_falls_from_the_head_to_the_stem():
    found = rates(tubelet.create("tiny", num_classes=2), layer_decay=0.5, head_factor=10.0)
    expected = {"stem": 1 / 16, "stages.0": 1 / 8, "stages.1": 1 / 4, "stages.2": 1 / 2, "head": 10.0}
    for name, rate in found.items():
        assert (
            rate == expected[name if name in expected else ".".join(name.split(".")[: 1 + name.startswith("stages")])]
        )


def test_children_in_order_where_there_are_no_stages():
    model = nn.Sequential(nn.Conv3d(1, 2, 1), nn.ReLU(), nn.Conv3d(2, 2, 1), nn.Flatten(), nn.Linear(2, 2))
    found = rates(model, layer_decay=0.5, head_factor=4.0)
    assert [found[f"{i}.weight"] for i in (0, 2, 4)] == [0.25, 0.5, 4.0]
    assert rates(nn.Linear(2, 2)) == {"weight": 1.0, "bias": 1.0}


def test_without_decay_by_layer_there_are_two_groups():
    groups = optim.parameter_groups(tubelet.create("tiny", num_classes=2), 0.1, 0.05)
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.05]


def test_norms_of_several_axes_do_not_decay_and_what_is_shared_stands_once():
    norm, linear = nn.LayerNorm((2, 3)), nn.Linear(3, 3, bias=False)
    groups = optim.parameter_groups(nn.Sequential(norm, linear, linear), 0.1, 0.05, layer_decay=0.5)
    assert {len(group["params"]): group["weight_decay"] for group in groups} == {2: 0.0, 1: 0.05}


def test_what_is_frozen_is_left_out():
    model = tubelet.create("tiny", num_classes=2)
    regularize.freeze(model, 3)
    groups = optim.parameter_groups(model, 0.1, 0.05)
    assert sum(len(group["params"]) for group in groups) == 2
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        optim.parameter_groups(model, 0.1, 0.05)


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"weight_decay": -1.0},
        {"layer_decay": 0.0},
        {"layer_decay": 1.5},
        {"head_factor": 0.0},
    ],
)
def test_numbers_out_of_range_are_named(bad):
    (name, value), *_ = bad.items()
    with pytest.raises(ValueError, match=rf"{name} {value} must be"):
        optim.parameter_groups(nn.Linear(1, 1), **{"lr": 0.1, "weight_decay": 0.0, **bad})


def test_optimizers_are_adamw_and_nesterov():
    groups = optim.parameter_groups(nn.Linear(1, 1), 0.25, 0.5)
    sgd, adamw = optim.OPTIMIZERS["sgd"](groups), optim.OPTIMIZERS["adamw"](groups)
    assert isinstance(adamw, torch.optim.AdamW)
    assert sgd.param_groups[0]["nesterov"] and sgd.param_groups[0]["momentum"] == 0.9
    assert {group["lr"] for group in (*sgd.param_groups, *adamw.param_groups)} == {0.25}


def test_rates_for_the_real_batch():
    # Goyal et al.: 0.1 for 256 images becomes 3.2 for 8,192
    assert optim.scaled_rate(0.1 / 16, "sgd", 8192)[0] == pytest.approx(3.2)
    rate, sentence = optim.scaled_rate(1e-3, "adamw", 64)
    assert rate == pytest.approx(2e-3)
    assert sentence == "0.001 for 16 clips, times the root of 4 for steps of 64"
    with pytest.raises(ValueError, match="batch_size 0 must be at least 1"):
        optim.scaled_rate(1e-3, "adamw", 0)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 40, 333])
def test_the_schedule_is_torchs_linear_and_cosine(steps):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    warmup = max(1, steps // 10)
    schedule = SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, 1 / warmup, total_iters=warmup),
            CosineAnnealingLR(optimizer, max(1, steps - warmup)),
        ],
        [warmup],
    )
    for step in range(steps):
        assert optim.warmup_cosine(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        schedule.step()


def test_the_schedule_by_hand():
    # 2 steps of 20 rise, 18 fall; half of the fall is at step 11
    found = [optim.warmup_cosine(step, 20) for step in (0, 1, 2, 11, 20)]
    assert found == pytest.approx([0.5, 0.75, 1, 0.5, 0])
    assert [optim.warmup_cosine(step, 10, 0.5) for step in range(6)] == pytest.approx([0.2, 0.36, 0.52, 0.68, 0.84, 1])


def test_the_average_is_an_exponential_one_of_weights_and_statistics():
    model = nn.BatchNorm3d(1)
    average = optim.averaged(model, 0.9)
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            model.weight.fill_(value)
            model.running_mean.fill_(10 * value)
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 3)
    assert average.module.running_mean.item() == pytest.approx(12.9)
    assert not average.module.weight.requires_grad and not average.module.training and model.weight.requires_grad
    with pytest.raises(ValueError, match=r"decay 1.0 must be"):
        optim.averaged(model, 1.0)


class Trained:
    """A network and all that a run keeps, with everything on that draws by chance."""

    def __init__(self, name):
        torch.manual_seed(0)
        self.model = tubelet.create("tiny_3d", num_classes=3)
        regularize.freeze(self.model, 1)
        regularize.split_norms(self.model, 2)
        regularize.stochastic_depth(self.model, 0.5)
        regularize.set_dropout(self.model, 0.5)
        self.average = optim.averaged(self.model, 0.7)
        self.optimizer = optim.OPTIMIZERS[name](optim.parameter_groups(self.model, 0.01, 0.05, layer_decay=0.75))

    def parts(self):
        return {"model": self.model, "average": self.average, "optimizer": self.optimizer}

    def train(self, steps):
        self.model.train()
        for step in steps:
            torch.manual_seed(step)
            self.model(torch.randn(4, 3, 4, 16, 16)).logsumexp(1).sum().backward()
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * optim.warmup_cosine(step, 6)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.update_parameters(self.model)

    def saved(self):
        file = io.BytesIO()
        torch.save({name: part.state_dict() for name, part in self.parts().items()}, file)
        file.seek(0)
        return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_resumed_it_goes_on_to_the_bit(name):
    whole, first, second = Trained(name), Trained(name), Trained(name)
    whole.train(range(6))
    first.train(range(3))
    for part, state in first.saved().items():
        second.parts()[part].load_state_dict(state)
    second.train(range(3, 6))
    for part in ("model", "average"):
        a, b = whole.parts()[part].state_dict(), second.parts()[part].state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(whole.model.head.fc.weight, whole.average.module.head.fc.weight)
