"""What networks do differently in training, against the papers' definitions; in evaluation nothing differs."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import tubelet
from tubelet import regularize


def tiny(dropout=0.0):
    torch.manual_seed(0)
    model = tubelet.create("tiny_3d", num_classes=3)
    regularize.set_dropout(model, dropout)
    return model


def clips(batch=4):
    return torch.randn(batch, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def everything_on(model):
    regularize.freeze(model, 1)
    regularize.freeze_norms(model.stages[1])
    regularize.split_norms(model, 2)
    regularize.stochastic_depth(model, 0.5)
    regularize.set_dropout(model, 0.5)
    return model


def test_in_evaluation_nothing_differs():
    plain, changed = tiny().eval(), everything_on(tiny()).train().eval()
    assert plain.state_dict().keys() == changed.state_dict().keys()
    assert torch.equal(plain(clips()), changed(clips()))
    assert not torch.equal(plain(clips()), changed.train()(clips()))


def test_it_streams_and_exports_as_before():
    plain, changed = tiny().eval(), everything_on(tiny())
    stream = tubelet.Stream(changed)
    outputs = [stream(chunk) for chunk in clips(1).split(1, 2)] + [stream.flush()]
    torch.testing.assert_close(torch.cat(outputs, 2)[:, :, -1], plain(clips(1)))
    with torch.no_grad():
        exported = torch.export.export(changed.eval(), (clips(1),)).module()(clips(1))
    torch.testing.assert_close(exported, plain(clips(1)))


def test_copies_and_pickles_take_it_along(tmp_path):
    model = everything_on(tiny()).train()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), torch.load(file, weights_only=False)]
    answers = []
    for each in (model, *copies):
        torch.manual_seed(5)
        answers.append(each.train()(clips()))
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], model(clips()))  # other steps are left out
    tubelet.save(model, tmp_path / "model.safetensors")
    assert torch.equal(tubelet.load(tmp_path / "model.safetensors").eval()(clips()), model.eval()(clips()))


def test_frozen_stages_stay_as_they_are():
    model, before = tiny().train(), tiny().state_dict()
    regularize.freeze(model, 2)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model.train()
        model(clips()).logsumexp(1).sum().backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("stages.2", "head")) for name in moved)
    assert {"stages.2.branch.norm1.running_mean", "head.fc.weight"} <= moved


def test_what_cannot_be_frozen_is_told():
    with pytest.raises(ValueError, match=r"^4 stages to freeze .*frozen_stages.*the network has 3: give 0 to 3$"):
        regularize.freeze(tiny(), 4)
    with pytest.raises(ValueError, match="Sequential has no stem and stages"):
        regularize.freeze(nn.Sequential(), 1)
    regularize.freeze(nn.Sequential(), 0)


def test_norms_that_are_held_are_told_from_the_others():
    model = tiny()
    every = regularize.free_norms(model)
    regularize.freeze(model, 1)
    left = regularize.free_norms(model)
    assert 0 < len(left) < len(every) and set(left) < set(every)
    regularize.freeze_norms(model)
    assert regularize.free_norms(model) == []


def test_norms_without_statistics_are_not_held_beside_those_that_have_some():
    model = tiny()
    norms = regularize.free_norms(model)
    norms[0].running_mean += 1  # published weights, whose count of batches may be missing
    norms[1].running_var *= 2
    handles = regularize.freeze_norms(model)
    assert regularize.free_norms(model) == norms[2:]
    for handle in handles:
        handle.remove()
    assert regularize.free_norms(model) == norms


def test_frozen_norms_answer_as_in_evaluation_and_still_learn():
    model = tiny()
    for _ in range(2):
        model.train()(clips())
    expected, statistics = model.eval()(clips()), model.stem.norm.running_mean.clone()
    regularize.freeze_norms(model)
    found = model.train()(clips())
    assert torch.equal(found, expected) and torch.equal(model.stem.norm.running_mean, statistics)
    found.logsumexp(1).sum().backward()
    assert model.stem.norm.weight.grad.any()
    with pytest.raises(ValueError, match="no batch norm"):
        regularize.freeze_norms(nn.Linear(1, 1))


def test_split_norms_take_each_part_on_its_own():
    torch.manual_seed(0)
    x = torch.randn(5, 2, 3, 4, 4) * torch.arange(1, 6).view(5, 1, 1, 1, 1)
    norm, whole = nn.BatchNorm3d(2), nn.BatchNorm3d(2)
    (handle,) = regularize.split_norms(norm, 2)
    expected = torch.cat([nn.BatchNorm3d(2)(x[:3]), nn.BatchNorm3d(2)(x[3:])])
    torch.testing.assert_close(norm(x), expected)
    plain = whole(x)
    assert torch.equal(norm.running_mean, whole.running_mean) and torch.equal(norm.running_var, whole.running_var)
    handle.remove()
    assert torch.equal(norm(x), plain)
    with pytest.raises(ValueError, match="num_parts 1 must be at least 2"):
        regularize.split_norms(norm, 1)


def test_precise_norms_are_those_of_all_clips_at_once():
    torch.manual_seed(0)
    batches = [torch.randn(n, 2, 2, 3, 3) + n for n in (1, 5, 2)]  # other means, other sizes
    norm, simple = nn.BatchNorm3d(2, momentum=0.3).eval(), nn.BatchNorm3d(2)
    regularize.precise_norms(norm, batches)
    whole = torch.cat(batches).transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, whole.mean(1))
    torch.testing.assert_close(norm.running_var, whole.var(1))
    assert norm.momentum == 0.3 and not norm.training
    update_bn(batches, simple)
    assert (simple.running_var < 0.5 * norm.running_var).all()


def test_precise_norms_of_a_network_are_torchs_for_one_batch():
    model, simple = tiny(dropout=0.5).train(), tiny()
    regularize.stochastic_depth(model, 0.5)
    regularize.precise_norms(model, [clips()])
    assert all(module.training for module in model.modules())
    update_bn([clips()], simple)
    for name, value in simple.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)


def test_precise_norms_leave_alone_what_is_held():
    model = tiny()
    regularize.freeze(model, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    regularize.precise_norms(model, [clips()])
    moved = {
        name.split(".running")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert any(name.startswith("stages.1") for name in moved)
    assert not any(name.startswith(("stem", "stages.0")) for name in moved)
    with pytest.raises(ValueError, match="no batch"):
        regularize.precise_norms(model, [])


def test_later_steps_are_left_out_more_often():
    model = tiny()
    regularize.stochastic_depth(model, 0.6)
    torch.manual_seed(0)
    for i, step in enumerate(regularize.residual_steps(model), 1):
        step.branch.train()
        x = torch.randn(1, *step.branch[0].weight.shape[1:2], 2, 4, 4).expand(4000, -1, -1, -1, -1)
        with torch.no_grad():
            plain = copy.deepcopy(step.branch)
            plain._forward_hooks.clear()
            full, found = plain(x), step.branch(x)
        is_left_out = ~found.flatten(1).any(1)
        rate = 0.6 * i / 3
        assert abs(is_left_out.float().mean().item() - rate) < 5 * (rate * (1 - rate) / 4000) ** 0.5
        torch.testing.assert_close(found[~is_left_out], full[~is_left_out] / (1 - rate))


def test_handles_take_stochastic_depth_back():
    model = tiny()
    plain = model.train()(clips())
    handles = regularize.stochastic_depth(model, 0.9)
    assert len(handles) == 3
    torch.manual_seed(0)
    assert not torch.equal(model(clips()), plain)
    for handle in handles:
        handle.remove()
    assert torch.equal(model(clips()), plain)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_rates_out_of_range_are_named(rate):
    for call in (regularize.stochastic_depth, regularize.set_dropout):
        with pytest.raises(ValueError, match=rf"{rate} must be at least 0 and below 1"):
            call(tiny(), rate)


def test_what_a_network_does_not_have_is_told():
    with pytest.raises(ValueError, match="has no residual steps"):
        regularize.stochastic_depth(tubelet.create("video_cnn", num_classes=2), 0.1)
    with pytest.raises(ValueError, match="has no dropout"):
        regularize.set_dropout(nn.Linear(1, 1), 0.1)


def test_dropout_is_that_of_the_head_and_is_saved_with_it(tmp_path):
    model = tubelet.create("tiny", num_classes=2)
    regularize.set_dropout(model, 0.7)
    loaded = tubelet.load(tubelet.save(model, tmp_path / "model.safetensors"))
    assert loaded.head.dropout.p == 0.7
