"""What is shared among processes computes what the plain network does; one process here, two in test_fit.py."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import tubelet
from tests.models.test_every_model import QUICK, boxes, clip
from tubelet import memory, optim, sharding

FAST = {"tiny", "unet3d"}
NUMBERS = {"movinet_a0"}  # weights that are single numbers


@pytest.fixture(scope="module")
def mesh():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    torch.distributed.destroy_process_group()


def network(name="tiny_3d"):
    torch.manual_seed(0)
    return tubelet.create(name, num_classes=5)


def whole(value):
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def step(net, x, *more):
    torch.manual_seed(1)
    output = net(x, *more)
    sum(each.square().mean() for each in tree_leaves(output)).backward()
    return output, [None if each.grad is None else whole(each.grad) for each in net.parameters()]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in sorted(QUICK - NUMBERS)],
)
def test_a_step_of_a_sharded_network_is_that_of_the_plain_one(name, mesh):
    plain = network(name).train()
    for module in plain.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # of a map of one voxel they make noise
    sharded = copy.deepcopy(plain)
    sharding.shard(sharded, mesh)
    assert sharding.is_sharded(sharded) and not sharding.is_sharded(plain)
    # of seven frames torch's gradient of s3d's first kernel, seven frames long, is wrong on a CPU
    given = clip(plain, (3, 9, 14), batch=2), *boxes(plain, 2)
    expected, gradients = step(plain, *given)
    for stages in ([], sharded.stages):  # computed again
        sharded.zero_grad()
        with memory.checkpointed(stages):
            found, shared = step(sharded, *given)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        torch.testing.assert_close(shared, gradients, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_a_weight_that_is_a_number_is_not_shared(name, mesh):
    with pytest.raises(ValueError, match=r"cannot share \S+\.weight of \w+, a single number: train with ddp$"):
        sharding.shard(network(name), mesh)


def test_states_are_whole_and_fit_either(mesh):
    plain, x = network(), torch.randn(2, 3, 4, 16, 16)
    sharded = sharding.shard(copy.deepcopy(plain), mesh)
    optimizers = [torch.optim.AdamW(net.parameters(), lr=1e-2) for net in (plain, sharded)]
    for net, optimizer in zip((plain, sharded), optimizers, strict=True):
        step(net, x)
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
    for own, other in zip((plain, optimizers[0]), (sharded, optimizers[1]), strict=True):
        state = sharding.whole_state(other, "cpu")
        assert all(type(each) is torch.Tensor for each in tree_leaves(state) if isinstance(each, torch.Tensor))
        torch.testing.assert_close(state, dict(own.state_dict()))
        assert all(
            each.is_meta for name, each in sharding.whole_state(sharded, "meta").items() if "conv.weight" in name
        )
        sharding.load(other, own.state_dict())
        sharding.load(own, sharding.whole_state(other, "cpu"))
        torch.testing.assert_close(sharding.whole_state(other, "cpu"), dict(own.state_dict()), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="Missing key"):
        sharding.load(sharded, {})


class Fabric:
    """What `set_up` asks for."""

    device = torch.device("cpu")

    def __init__(self, mesh):
        self.strategy = type("Strategy", (), {"device_mesh": mesh})

    def setup_module(self, net):
        return sharding.shard(net, self.strategy.device_mesh)

    def setup_optimizers(self, optimizer):
        return optimizer


def test_the_average_is_shared_too_and_whole_to_validate(mesh):
    plain, x = network(), torch.randn(2, 3, 4, 16, 16)
    shared = copy.deepcopy(plain)
    averages = [optim.averaged(net, 0.5) for net in (plain, shared)]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (plain, shared)]
    model, _, validated = sharding.set_up(Fabric(mesh), shared, optimizers[1], averages[1])
    assert model is shared and sharding.is_sharded(averages[1])
    for _ in range(3):
        for net, average, optimizer in zip((plain, shared), averages, optimizers, strict=True):
            step(net, x)
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(net)
    for _ in range(2):
        with validated() as found:
            assert type(found) is type(plain) and not sharding.is_sharded(found)
            torch.testing.assert_close(dict(found.state_dict()), dict(averages[0].module.state_dict()))
            found.stem.norm.running_mean.fill_(3.0)  # as precise statistics are
        averages[0].module.stem.norm.running_mean.fill_(3.0)
        assert averages[1].module.stem.norm.running_mean.eq(3.0).all()
        assert all(each.is_meta for each in found.parameters())
