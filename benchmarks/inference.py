"""Inference of one clip on a CPU: the network as it is, by OpenVINO where that is installed, and optimized.

Each network of the table on one thread and, where `THREADS` says so, on two; then what is faster in bfloat16, and how
much memory a process takes. Two threads are timed by the clock on the wall, one by processor time.
"""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import tubelet
from benchmarks.timing import alternate
from tubelet import Table, optimize

# name, (T, H, W), numbers of threads
NETWORKS = (
    ("r2plus1d_18", (16, 112, 112), (1, 2)),
    ("r3d_18", (16, 112, 112), (1, 2)),
    ("mc3_18", (16, 112, 112), (1, 2)),
    ("c3d", (16, 112, 112), (1, 2)),
    ("slow_r50", (8, 256, 256), (1, 2)),
    ("slowfast_r50", (32, 256, 256), (1,)),
    ("ir_csn_101", (32, 224, 224), (1,)),
    ("s3d", (16, 224, 224), (1, 2)),
    ("x3d_s", (13, 182, 182), (1, 2)),
    ("i3d", (16, 224, 224), (1, 2)),
)
SIZES = {name: size for name, size, _ in NETWORKS}
IN_BFLOAT16 = ("r2plus1d_18", "x3d_s", "slow_r50")
IN_MEMORY = ("r2plus1d_18", "slow_r50", "x3d_s")
ROUNDS = 7

# The most memory that a process takes while the network answers, and what of it there is between answers. What was
# taken to make the network or to time its layers is over by then.
MEMORY = """
import re, sys, torch, tubelet
from pathlib import Path
from tubelet import optimize

def megabytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

name, is_fast, *size = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:])
torch.set_num_threads(1)
network, clip = tubelet.create(name).eval(), torch.randn(1, 3, *size)
network = optimize(network, clip) if is_fast else network
with torch.no_grad():
    network(clip)
    between = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    network(clip)
print(between, megabytes("VmHWM"))
"""


def _with_statistics(network: nn.Module, size: tuple[int, ...]) -> nn.Module:
    """Norms that have seen a clip, as those of trained networks: without, values grow or vanish layer by layer."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(2, 3, *size))
    return network.eval()


def _openvino(network: nn.Module, clip: Tensor) -> Callable[[], Tensor]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    converted = openvino.convert_model(network, example_input=clip, input=list(clip.shape))
    compiled = openvino.compile_model(converted, "CPU", settings)
    return lambda: torch.from_numpy(compiled(clip.numpy())[0])


def _compared(name: str, threads: int, dtype: torch.dtype = torch.float32) -> Iterator[Table]:
    """Times of a network, and how far its answers are from torch's."""
    size = SIZES[name]
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    network = _with_statistics(tubelet.create(name), size)
    clip = torch.randn(1, 3, *size)
    fast = optimize(network, clip, dtype=dtype, seconds=60.0)
    cases: dict[str, Callable[[], Tensor]] = {"torch": lambda: network(clip)}
    if dtype == torch.float32 and importlib.util.find_spec("openvino"):
        cases["OpenVINO"] = _openvino(network, clip)
    cases["tubelet"] = lambda: fast(clip)
    ours = "" if dtype == torch.float32 else ", tubelet in bfloat16"
    title = f"{name}, a clip of {'x'.join(map(str, size))}, {threads} thread{'s' * (threads > 1)}{ours}"
    with torch.no_grad():
        yield alternate(cases, title, ROUNDS, time.process_time if threads == 1 else time.perf_counter)
        right = network(clip)
        rows = [
            {"case": case, "furthest from torch": f"{float((run() - right).abs().max() / right.abs().max()):.1e}"}
            for case, run in cases.items()
        ]
    yield Table(rows, title=f"{title}: as a share of the largest logit")


def _memory() -> Table:
    rows = []
    for name in IN_MEMORY:
        row: dict[str, object] = {"network": name}
        for case, is_fast in (("torch", 0), ("tubelet", 1)):
            command = [sys.executable, "-c", MEMORY, name, str(is_fast), *map(str, SIZES[name])]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            row[f"{case}, between"], row[f"{case}, most"] = map(int, said.split()[-2:])
        rows.append(row)
    return Table(rows, title="megabytes of a process, between answers and at most while it answers")


def tables() -> Iterator[Table]:
    before = torch.get_num_threads()
    try:
        for name, _, numbers in NETWORKS:
            for threads in numbers:
                yield from _compared(name, threads)
        for name in IN_BFLOAT16:
            yield from _compared(name, 1, torch.bfloat16)
        if sys.platform == "linux":
            yield _memory()
    finally:
        torch.set_num_threads(before)
