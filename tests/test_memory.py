import copy
import pickle
import platform
import subprocess
import sys
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


# A real step in a process of its own: MiB that it took at most, from its second on, above what was there before.
MEASURED = """
import ctypes, re, sys
import torch, tubelet
from tubelet import memory

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024

def step(model, clips, optimizer, dtype, stages):
    with memory.checkpointed(list(model.stages)[:stages]):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = model(clips)
        output.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

torch.set_num_threads(1)
name, sizes, kind, dtype, stages = sys.argv[1:]
kind, dtype = getattr(torch.optim, kind), getattr(torch, dtype)
small = tubelet.create("tiny")
step(small, torch.rand(2, 3, 8, 32, 32), kind(small.parameters(), 0.01), dtype, 0)  # what torch loads at first
with memory.returned():
    before = status("VmRSS")
    model = tubelet.create(name)
    clips, optimizer = torch.rand(eval(sizes)), kind(model.parameters(), 1e-4)
    step(model, clips, optimizer, dtype, int(stages))
    open("/proc/self/clear_refs", "w").write("5")  # the highest so far
    step(model, clips, optimizer, dtype, int(stages))
    print(status("VmHWM") - before)
"""
on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc")


def check_predicted(name, sizes, kind="SGD", dtype="float32", stages=0):
    told = memory.predict_peak(
        tubelet.create(name),
        torch.empty(sizes, device="meta"),
        optimizer=lambda parameters: getattr(torch.optim, kind)(parameters, 1e-4),
        dtype=getattr(torch, dtype),
        num_checkpointed=stages,
    )
    command = [sys.executable, "-c", MEASURED, name, str(sizes), kind, dtype, str(stages)]
    measured = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert told.total / 2**20 == pytest.approx(measured, rel=0.15), told


@on_glibc
def test_the_peak_of_a_small_step_is_predicted():
    check_predicted("tiny", (12, 3, 16, 96, 96), "AdamW")


@on_glibc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("r3d_18", (2, 3, 16, 112, 112)),
        ("r2plus1d_18", (2, 3, 8, 112, 112)),
        ("x3d_s", (4, 3, 13, 112, 112)),
        ("slowfast_r50", (1, 3, 32, 128, 128)),
        ("unet3d", (1, 1, 24, 64, 64)),
    ],
)
@pytest.mark.parametrize(
    ("kind", "dtype", "stages"), [("SGD", "float32", 0), ("SGD", "bfloat16", 0), ("AdamW", "float32", 4)]
)
def test_the_peak_is_predicted(name, sizes, kind, dtype, stages):
    check_predicted(name, sizes, kind, dtype, stages)


def test_parts_of_a_linear_layer_are_those_by_hand():
    model, clips = nn.Sequential(nn.Flatten(), nn.Linear(1000, 500)), torch.empty(64, 1, 1, 10, 100)
    peak = memory.predict_peak(model, clips)
    weights = 4 * (1000 * 500 + 500)
    assert peak.weights == weights
    assert peak.gradients == weights
    assert peak.optimizer == 2 * weights + 2 * 4  # two moments, and the step of each parameter
    assert peak.activations == 4 * 64 * 1000  # the clips; the rest is freed before the update
    assert peak.total == sum([peak.weights, peak.gradients, peak.optimizer, peak.activations, peak.temporaries])
    plain = memory.predict_peak(model, clips, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1))
    assert plain.optimizer == 0
    assert plain.total < peak.total


def test_gradients_of_other_parts_count():
    model, clips = tubelet.create("tiny"), torch.empty(2, 3, 8, 64, 64)
    alone, among = (memory.predict_peak(model, clips, is_accumulated=each) for each in (False, True))
    learned = sum(4 * each.numel() for each in model.parameters())
    assert among.gradients == learned
    assert alone.total < among.total <= alone.total + learned


def test_predicting_changes_nothing():
    model, clips = tubelet.create("tiny"), torch.empty(2, 3, 8, 32, 32)
    before, chance = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    memory.predict_peak(model, clips, num_checkpointed=len(model.stages))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())
    assert torch.equal(torch.get_rng_state(), chance)


def test_what_cannot_be_predicted_is_refused():
    class Counted(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1))[: int(x.sum())]

    with pytest.raises(ValueError, match="Counted cannot be told: its shapes depend on values"):
        memory.predict_peak(Counted(12, 2), torch.empty(2, 3, 1, 2, 2))
    with pytest.raises(ValueError, match="num_checkpointed 9 must be from 0 to"):
        memory.predict_peak(tubelet.create("tiny"), torch.empty(2, 3, 8, 32, 32), num_checkpointed=9)


class Staged(nn.Module):
    """A small network with batch norms and stages that are much larger inside than between them."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv3d(3, 8, 1), nn.BatchNorm3d(8), nn.SiLU(), nn.Conv3d(8, 3, 1)) for _ in range(2)
        )

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


@pytest.fixture
def network():
    return Staged()


SHAPE = (3, 8, 32, 32)


def test_nothing_is_changed_where_memory_is_plenty(network):
    plan = memory.plan(network, 32, SHAPE, available=2**40)
    assert (plan.precision, plan.accumulate, plan.num_checkpointed, plan.is_returned) == ("32", 1, 0, False)
    assert "nothing is changed" in plan.reason


@pytest.mark.parametrize("precision", [None, "32", "bf16"])
@pytest.mark.parametrize("share", [1.5, 0.8, 0.4])
def test_what_is_chosen_fits(network, precision, share):
    whole = memory.predict_peak(network, torch.empty(32, *SHAPE)).total
    plan = memory.plan(network, 32, SHAPE, available=int(share * whole), precision=precision)
    again = memory.predict_peak(
        network,
        torch.empty(-(-32 // plan.accumulate), *SHAPE),
        dtype=memory.DTYPES[plan.precision],
        num_checkpointed=plan.num_checkpointed,
        is_accumulated=plan.accumulate > 1,
    )
    assert again == plan.peak
    assert plan.peak.total <= 0.8 * share * whole
    assert precision in (None, plan.precision)
    assert f"{share * whole / 2**20:,.0f} MiB at hand" in plan.reason


def test_small_parts_of_batch_norms_come_last(network):
    whole = memory.predict_peak(network, torch.empty(8, *SHAPE)).total
    plan = memory.plan(network, 8, SHAPE, available=int(whole), precision="32")
    assert plan.accumulate == 1
    assert plan.num_checkpointed > 0
    for stage in network.stages:
        stage[1] = nn.Identity()
    whole = memory.predict_peak(network, torch.empty(8, *SHAPE)).total
    plan = memory.plan(network, 8, SHAPE, available=int(whole), precision="32")
    assert (plan.accumulate, plan.num_checkpointed) == (4, 0)


def test_too_little_memory_is_told_in_numbers(network):
    with pytest.raises(ValueError, match=r"takes \d+ MiB, and at least \d+ MiB .* 80% of the 1 MiB at hand"):
        memory.plan(network, 4, SHAPE, available=2**20)
    with pytest.raises(ValueError, match="precision 'half'; there is 32, bf16, 16"):
        memory.plan(network, 4, SHAPE, precision="half")


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


MEMINFO = "MemTotal:       8000000 kB\nMemAvailable:   4000000 kB\n"


def test_memory_at_hand_is_the_least_of_the_limits(tmp_path):
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"})
    assert memory.available_bytes(root=tmp_path) == 4_000_000 * 1024
    group = "sys/fs/cgroup/a/"
    write(tmp_path, {group + "memory.max": "1000000\n", group + "memory.current": "600000\n"})
    write(tmp_path, {group + "memory.stat": "anon 5\ninactive_file 100000\n", "proc/self/cgroup": "0::/a/b\n"})
    write(tmp_path, {f"{group}b/memory.max": "max\n", f"{group}b/memory.current": "1\n"})
    write(tmp_path, {f"{group}b/memory.stat": "inactive_file 0\n"})
    assert memory.available_bytes(root=tmp_path) == 500_000  # of the group around, files that give way counted


def test_memory_at_hand_of_the_first_version_of_groups(tmp_path):
    group = "sys/fs/cgroup/memory/"  # in a container, where the path of the host is not
    write(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/abc\n0::/\n"})
    write(tmp_path, {group + "memory.limit_in_bytes": "900000\n", group + "memory.usage_in_bytes": "950000\n"})
    write(tmp_path, {group + "memory.stat": "cache 1\ntotal_inactive_file 100000\n"})
    assert memory.available_bytes(root=tmp_path) == 50_000


def test_memory_of_this_machine():
    assert 2**20 < memory.available_bytes() < 2**50


RETURNED = """
import re, torch
from tubelet import memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) / 1024

def kept():
    blocks = [torch.ones(2**20) for _ in range(64)]  # of 4 MiB
    before, last = resident(), blocks[-1]
    del blocks
    return resident() - before

warm = [torch.ones(2**21) for _ in range(2)]
del warm  # glibc grows its threshold to what was freed
with memory.returned():
    inside = kept()
print(inside, kept())
"""


@on_glibc
def test_freed_memory_is_returned():
    done = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True)
    inside, after = map(float, done.stdout.split())
    assert inside == pytest.approx(-63 * 4, abs=8)
    assert after > inside / 2


def test_what_others_call_stages_may_be_anything():
    class Net(nn.Module):
        stages = 4

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(1, 2, 3)

        def forward(self, x):
            return self.conv(x).mean((2, 3, 4))

    assert memory.predict_peak(Net(), torch.rand(1, 1, 4, 8, 8)).total > 0
    assert memory.plan(Net(), 2, (1, 4, 8, 8), available=2**30).num_checkpointed == 0


def test_stages_that_take_arguments_by_name_are_computed_again():
    class Named(nn.Module):
        def forward(self, x, *, factor):
            return factor * x.exp()

    stage, x = Named(), torch.rand(3, requires_grad=True)
    with memory.checkpointed([stage]):
        stage(x, factor=2).sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.exp())
