"""A step of training on a CPU, forward, backward and SGD: torch's own convolutions against the chosen ones."""

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

import tubelet
from benchmarks.timing import alternate
from tubelet import Table, speed

CLIPS = 4
NETWORKS = (("r2plus1d_18", (8, 112, 112)), ("x3d_s", (13, 160, 160)))
STEPS = 20


def _step(network: torch.nn.Module, batch: tuple, choices: speed.Choices, dtype: torch.dtype) -> Callable[[], float]:
    """A case with weights and an optimizer of its own; it gives the loss."""
    model = copy.deepcopy(network)
    optimizer = torch.optim.SGD(model.parameters(), 1e-6)  # new weights and four clips: more, and float32 is chaos
    clips, targets = batch

    def step() -> float:
        torch.manual_seed(0)  # of dropout
        with speed.applied(choices):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = F.cross_entropy(model(clips), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return step


def _furthest(eager: Callable[[], float], fast: Callable[[], float]) -> float:
    """Of the losses of two cases, step by step."""
    return max(abs(eager() - fast()) for _ in range(STEPS))


def tables() -> Iterator[Table]:
    for name, size in NETWORKS:
        torch.manual_seed(0)
        network = tubelet.create(name, num_classes=10)
        batch = torch.randn(CLIPS, 3, *size), torch.arange(CLIPS)
        single, half = (speed.choose(network, batch[0], dtype=dtype) for dtype in speed.FAST_DTYPES)
        plain = speed.Choices({})
        cases = {
            "torch, float32": _step(network, batch, plain, torch.float32),
            "torch, bfloat16": _step(network, batch, plain, torch.bfloat16),
            "tubelet, bfloat16": _step(network, batch, half, torch.bfloat16),
            "tubelet, float32": _step(network, batch, single, torch.float32),
        }
        yield alternate(cases, f"{name}, a step of {CLIPS} clips of {'x'.join(map(str, size))}", rounds=5)
        again = (_step(network, batch, choices, torch.float32) for choices in (plain, single))
        rows = [{"losses of float32": f"at most {_furthest(*again):.1e} apart in {STEPS} steps"}]
        yield Table(rows, title=name)
