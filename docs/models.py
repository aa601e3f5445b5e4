"""Write docs/models.md: every network with its paper, size, cost and published weights. `python docs/models.py`"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import tubelet
from tubelet import weights
from tubelet.models import MODELS

PAGE = Path(__file__).with_name("models.md")
INTRODUCTION = """\
# Models

<!-- written by docs/models.py -->

`tubelet.models()` lists the networks, `tubelet.create` makes one, `tubelet.load` reads one from a file
(see [Weights](weights.md)). There are {networks} of them and {rows} published checkpoints.

```python
import torch
import tubelet

print(tubelet.models("tiny*"))  # ('tiny3d', 'tiny', 'tiny_2d', 'tiny_3d')
model = tubelet.create("tiny", num_classes=5, in_channels=1).eval()
x = torch.randn(2, 1, 9, 40, 70)
with torch.no_grad():
    print(model(x).shape)  # torch.Size([2, 5])
    for stage, channels, stride in zip(model.features(x), model.channels, model.strides):
        print(tuple(stage.shape), channels, stride)
print(model.spec)
```

A network takes any clip from `model.least` = (T, H, W) up; its `spec` says which one its weights were made for.
SlowFast also wants a multiple of `model.alpha` frames. `model.features(x)` gives the map of each stage, described by
`model.channels` and `model.strides`. Change the task by assigning another [head](heads.md).

In the tables, *clip* is frames x frame stride, then the crop. Parameters and multiply-adds (one multiplication and one
addition; convolutions and matrix products) are counted by this page's script, at 400 classes, for one published clip;
detectors without their boxes.
*Published* is the best accuracy that the publisher of the weights reports, with the views it took: they are not
measured here. Weights are tags for `tubelet.create(NAME, weights=TAG)`; where there are more, the best one is named.
"""


def clip(spec: tubelet.ClipSpec) -> str:
    """`16x5, 224`."""
    height, width = spec.crop
    return f"{spec.num_frames}x{spec.frame_stride}, {height}" + ("" if height == width else f"x{width}")


def cost(preset: tubelet.preset.Preset) -> tuple[int, int]:
    """Parameters, and multiply-adds for one published clip."""
    spec = preset.spec
    with torch.device("meta"):
        network = preset().eval()
        x = torch.empty(1, spec.in_channels, spec.num_frames, *spec.crop)
    run = network
    if isinstance(network.head, tubelet.heads.Detect):  # its part depends on the boxes
        run = network.features
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(x)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


def published(name: str) -> tuple[str, str]:
    """Best published accuracy of a network, and the tag of its weights."""
    rows = sorted((row for row in weights.CATALOGUE if row.model == name), key=lambda row: -row.quality)
    if not rows:
        return "", ""
    best = rows[0]
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    metric, value = next(((key, best.metrics[key]) for key in ("top1", "mAP") if key in best.metrics), ("", 0.0))
    result = f"{metric} {value:g} %, {best.dataset}, {best.protocol}" if metric else best.dataset
    return result, f"`{best.tag}`{more}"


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION.format(networks=len(MODELS), rows=len(weights.CATALOGUE))]
    families = sorted({preset.build.__module__ for preset in MODELS})
    for family in families:
        module = importlib.import_module(family)
        title, _, sentence = inspect.getdoc(module).splitlines()[0].partition(": ")
        parts.append(f"\n## {title}\n")
        parts.append(f"{sentence[0].upper()}{sentence[1:]}\n" if sentence else "")
        parts.append("| network | paper | parameters | clip | multiply-adds | published | weights |")
        parts.append("|---|---|---:|---|---:|---|---|")
        for preset in module.PRESETS:
            parameters, operations = cost(preset)
            paper = preset.paper
            authors = paper.title.split(",")[0]
            source = f"[{authors}, {paper.year}]({paper.url})" if paper.url else authors
            cells = (
                f"`{preset.name}`",
                source,
                f"{parameters:,}",
                clip(preset.spec),
                f"{operations / 1e9:.2f} G",
                *published(preset.name),
            )
            parts.append(f"| {' | '.join(cells)} |")
    parts.append("\n## Functions\n\n::: tubelet.models\n")
    return "\n".join([*parts, *(f"::: {family}\n" for family in families)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
