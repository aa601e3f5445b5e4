"""Inference of one clip on a CPU, float32: the network as it is, by OpenVINO where that is installed, and optimized."""

import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import tubelet
from benchmarks.timing import alternate
from tubelet import Table
from tubelet.optimize import optimize

NETWORKS = (
    ("r2plus1d_18", (16, 112, 112)),
    ("r3d_18", (16, 112, 112)),
    ("mc3_18", (16, 112, 112)),
    ("c3d", (16, 112, 112)),
    ("slow_r50", (8, 256, 256)),
    ("s3d", (16, 224, 224)),
    ("x3d_s", (13, 182, 182)),
    ("i3d", (16, 224, 224)),
)


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


def tables() -> Iterator[Table]:
    for name, size in NETWORKS:
        torch.manual_seed(0)
        network = _with_statistics(tubelet.create(name), size)
        clip = torch.randn(1, 3, *size)
        fast = optimize(network, clip)
        cases: dict[str, Callable[[], Tensor]] = {"torch": lambda network=network, clip=clip: network(clip)}
        if importlib.util.find_spec("openvino"):
            cases["OpenVINO"] = _openvino(network, clip)
        cases["tubelet"] = lambda fast=fast, clip=clip: fast(clip)
        with torch.no_grad():
            yield alternate(cases, f"{name}, a clip of {'x'.join(map(str, size))}", rounds=7)
            right = network(clip)
            rows = [
                {"case": case, "furthest from torch": f"{float((run() - right).abs().max() / right.abs().max()):.1e}"}
                for case, run in cases.items()
            ]
        yield Table(rows, title=f"{name}, as a share of the largest logit")
