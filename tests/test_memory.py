import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tubelet
from tubelet import memory, speed


def trained(model, clips, targets, steps=3, chosen=None, choices=None):
    """Losses, gradients of the last step and the state of a copy of the model after some steps."""
    torch.manual_seed(0)
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    told = []
    with memory.checkpointed(chosen(model)) if chosen else nullcontext(), speed.applied(choices or speed.Choices({})):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(clips), targets)
            loss.backward()
            optimizer.step()
            told.append(loss.item())
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return told, gradients, model.state_dict()


@pytest.mark.parametrize("name", ["tiny", "x3d_xs"])
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_checkpointed_step_is_the_plain_one(name, fast, momentum):
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = momentum
    for i, stage in enumerate(model.stages):
        model.stages[i] = nn.Sequential(stage, nn.Dropout(0.1 * (i + 1)))
    clips, targets = torch.randn(3, 3, 4, 64, 64), torch.arange(3)
    choices = speed.choose(model, clips, seconds=0) if fast else None
    plain = trained(model, clips, targets, choices=choices)
    again = trained(model, clips, targets, chosen=lambda model: model.stages, choices=choices)
    assert again[0] == plain[0]
    for got, true in zip(again[1:], plain[1:], strict=True):
        assert list(got) == list(true)
        for key in true:
            assert torch.equal(got[key], true[key]), key


def test_less_is_kept():
    model, clips = tubelet.create("tiny", num_classes=4), torch.randn(2, 3, 8, 32, 32)
    kept = []
    for chosen in ([], model.stages):
        sizes = {}
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda x, sizes=sizes: sizes.update({x.data_ptr(): x.numel()}) or x, lambda x: x
        )
        with memory.checkpointed(chosen), hooks:
            model(clips)
        kept.append(sum(sizes.values()))
    assert kept[1] < kept[0] / 2


def test_modules_stay_as_they_are():
    model, clip = tubelet.create("tiny", num_classes=4).eval(), torch.randn(1, 3, 8, 32, 32)
    keys, plain = [list(vars(module)) for module in model.modules()], model(clip)
    with memory.checkpointed(model.stages):
        copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
        assert torch.equal(copied(clip), plain)
        assert list(copied.state_dict()) == list(model.state_dict())
    assert [list(vars(module)) for module in model.modules()] == keys


def test_stages_inside_one_another_are_refused():
    model = tubelet.create("tiny")
    with pytest.raises(ValueError, match="one of the stages holds another"), memory.checkpointed([model, model.stem]):
        pass
