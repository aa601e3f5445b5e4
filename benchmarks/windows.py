"""Sliding windows over a volume of 160 x 160 x 160, against MONAI's over the same weights, and the memory of both."""

import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import BasicUNet, UNet
from torch import Tensor, nn

import tubelet
from benchmarks.timing import in_turn
from tubelet import Table, windows

WINDOW = (64, 64, 64)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "unet3d of 8 to 64": lambda: tubelet.create("unet3d", num_classes=14, in_channels=1, channels=(8, 16, 32, 64)),
    "unet3d of 16 to 128": lambda: tubelet.create("unet3d", num_classes=14, in_channels=1, channels=(16, 32, 64, 128)),
    "MONAI BasicUNet of 16 to 128": lambda: BasicUNet(3, 1, 14, features=(16, 16, 32, 64, 128, 16)),
    "MONAI UNet of 16 to 128": lambda: UNet(3, 1, 14, (16, 32, 64, 128), (2, 2, 2), num_res_units=2),
}
ROUNDS = 3


def _monai(model: nn.Module, x: Tensor, batch_size: int = 1, labels: bool = False) -> Tensor:
    with torch.no_grad():
        logits = sliding_window_inference(x, WINDOW, batch_size, model, 0.5, mode="gaussian")
        return logits.argmax(1) if labels else logits


def _tubelet(model: nn.Module, x: Tensor, labels: bool = False) -> Tensor:
    return windows.sliding(model, x, window=WINDOW, overlap=0.5, blend="gaussian", labels=labels)


CASES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "MONAI, windows by 4": lambda model, x: _monai(model, x, 4),
    "MONAI, one by one": _monai,
    "tubelet": _tubelet,
    "MONAI, one by one, argmax": lambda model, x: _monai(model, x, labels=True),
    "tubelet, labels": lambda model, x: _tubelet(model, x, labels=True),
}


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


def _volume(size: int) -> Tensor:
    return torch.randn(1, 1, size, size, size, generator=torch.Generator().manual_seed(0))


def _peak_mib(network: str, case: str) -> int:
    """What a case adds to the highest resident memory of a process of its own, after a pass over one window."""
    command = [sys.executable, "-m", "benchmarks.windows", network, case]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _print_peak(network: str, case: str) -> None:
    torch.set_num_threads(1)
    model, run = _network(network), CASES[case]
    run(model, _volume(WINDOW[0]))
    volume = _volume(160)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of imports, counts no more
    before = _kib("VmRSS")
    run(model, volume)
    print((_kib("VmHWM") - before) // 1024)


def _kib(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def tables() -> Iterator[Table]:
    volume = _volume(160)
    for name in NETWORKS:
        model = _network(name)
        theirs = _monai(model, volume)
        error = (_tubelet(model, volume) - theirs).abs().max().item()
        differs = {"largest difference": error, "of the largest logit": error / theirs.abs().max().item()}
        cases = {case: lambda x, run=run, model=model: run(model, x) for case, run in CASES.items()}
        times = in_turn(cases, [volume], ROUNDS)
        ours = statistics.median(times["tubelet"])
        rows = [
            {
                "case": case,
                "median s": round(statistics.median(each) / 1000, 2),
                "least": round(min(each) / 1000, 2),
                "most": round(max(each) / 1000, 2),
                "times tubelet": round(statistics.median(each) / ours, 2),
                "peak MiB": _peak_mib(name, case),
            }
            for case, each in times.items()
        ]
        yield Table(rows, differs, f"{name}, 14 classes")


if __name__ == "__main__":
    _print_peak(*sys.argv[1:])
