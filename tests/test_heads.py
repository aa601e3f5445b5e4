import pytest
import torch
from torch import nn

from tubelet import heads
from tubelet.heads import Classify, Features, PerFrame

X = torch.rand(2, 6, 5, 3, 4, generator=torch.Generator().manual_seed(0))


def test_shapes():
    assert Classify(6, 7)(X).shape == (2, 7)
    assert PerFrame(6, 7)(X).shape == (2, 7, 5)
    assert Features()(X) is X


def test_classify_is_a_linear_layer_on_the_mean():
    head = Classify(6, 7)
    expected = X.mean((2, 3, 4)) @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(head(X), expected)
    steps = head.logits(X.mean((3, 4)))
    assert steps.shape == (2, 7, 5)
    torch.testing.assert_close(steps.mean(2), expected)


def test_per_frame_sees_one_step_alone():
    head = PerFrame(6, 7)
    logits = head(X)
    for t in range(5):
        torch.testing.assert_close(head(X[:, :, t : t + 1])[..., 0], logits[..., t])


@pytest.mark.parametrize("head", [Classify, PerFrame])
def test_dropout_acts_in_training_alone(head):
    module = head(6, 7, dropout=0.5)
    torch.manual_seed(0)
    assert not torch.equal(module(X), module(X))
    module.eval()
    assert torch.equal(module(X), module(X))


@pytest.mark.parametrize("head", [Classify(6, 7, dropout=0.25), PerFrame(6, 7), Features()])
def test_a_description_builds_the_head_anew(head):
    description = heads.describe(head)
    built = heads.build(description)
    assert type(built) is type(head)
    assert heads.describe(built) == description
    assert getattr(built, "dropout", nn.Dropout(0)).p == getattr(head, "dropout", nn.Dropout(0)).p
    built.load_state_dict(head.state_dict())
    assert torch.equal(built.eval()(X), head.eval()(X))


class MyClassify(Classify):
    pass


@pytest.mark.parametrize("head", [nn.Linear(2, 3), MyClassify(6, 7)])
def test_a_head_of_another_kind_cannot_be_described(head):
    with pytest.raises(ValueError, match=f"a {type(head).__name__} cannot be saved.*Classify, PerFrame, Features"):
        heads.describe(head)


def test_a_head_of_a_later_version():
    with pytest.raises(ValueError, match=r"'Detect'.*newer tubelet"):
        heads.build({"name": "Detect", "arguments": {}})
