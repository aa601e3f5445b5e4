"""Training augmentation: our uint8 path against float step by step, kornia and albumentations; each change's cost."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import alternate
from tubelet import ClipSpec, Table
from tubelet.data import transforms
from tubelet.data.augment import RANDAUGMENT, Augment, Change
from tubelet.data.transforms import Steps

SPEC = ClipSpec(num_frames=16, resize=None, crop=(112, 112))
AUGMENT = Augment(area=(0.08, 1), flip=True, color=0.4, saturation=0.4)
CLIPS = 10
LUMA = torch.tensor(transforms.LUMA, dtype=torch.float32).view(3, 1, 1, 1)


def _ours(clip: Tensor, change: Change) -> Tensor:
    top, left, height, width = change.box
    small = transforms.resize(clip[..., top : top + height, left : left + width], change.size)
    return transforms.normalize(change.apply(small), SPEC.mean, SPEC.std)


def _pytorchvideo(clip: Tensor, change: Change) -> Tensor:
    """Its published recipe, in our words: whole frames in float, jitter, normalise, then crop, resize and flip."""
    return _crop(_normalize(_jitter(clip.float() / 255, change)), change)


def _in_float(clip: Tensor, change: Change) -> Tensor:
    """The same in the kindest order: cropped and resized before the colours."""
    return _normalize(_jitter(_crop(clip.float() / 255, change), change))


def _crop(x: Tensor, change: Change) -> Tensor:
    top, left, height, width = change.box
    x = x[..., top : top + height, left : left + width]
    x = F.interpolate(x, change.size, mode="bilinear", align_corners=False)
    return x.flip(-1) if change.flip else x


def _jitter(x: Tensor, change: Change) -> Tensor:
    """torchvision's: one change after the other, each cut off."""
    for name, amount in change.steps:
        grey = (x * LUMA).sum(0, keepdim=True)
        other = {"brightness": 0, "contrast": grey.mean((2, 3), keepdim=True), "saturation": grey}[name]
        x = (amount * x + (1 - amount) * other).clamp(0, 1)
    return x


def _normalize(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (SPEC.mean, SPEC.std))
    return (x - mean) / std


def _kornia() -> Callable[[Tensor], Tensor]:
    import kornia.augmentation as K

    steps = K.VideoSequential(
        K.RandomResizedCrop(SPEC.crop, (0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4),
        K.Normalize(SPEC.mean, SPEC.std),
        data_format="BCTHW",
    )
    return lambda clip: steps(clip[None].float() / 255)[0]


def _albumentations() -> Callable[[Tensor], Tensor]:
    import albumentations as A

    around = (0.6, 1.4)
    steps = A.Compose(
        [
            A.RandomResizedCrop(SPEC.crop, (0.08, 1.0)),
            A.HorizontalFlip(),
            A.ColorJitter(around, around, around, (0, 0), p=1),
            A.Normalize(SPEC.mean, SPEC.std),
        ]
    )

    def run(clip: Tensor) -> Tensor:
        images = steps(images=clip.permute(1, 2, 3, 0).numpy())["images"]
        return torch.from_numpy(np.ascontiguousarray(images.transpose(3, 0, 1, 2)))

    return run


PEERS = {"kornia==0.9.0": _kornia, "albumentations==2.0.8": _albumentations}


def _each(run: Callable[..., object], *columns: Sequence) -> Callable[[], None]:
    """A case: CLIPS clips, none of them kept, as a worker that hands on each of its own."""

    def case() -> None:
        for row in zip(*columns, strict=True):
            run(*row)

    return case


def _pipelines(height: int, width: int) -> Table:
    generator = torch.Generator().manual_seed(0)
    # a decoder's pictures are (T, H, W, C) in memory
    clip = torch.randint(0, 256, (16, height, width, 3), dtype=torch.uint8, generator=generator).permute(3, 0, 1, 2)
    clips = [clip] * CLIPS
    changes = [AUGMENT.draw((height, width), SPEC, generator) for _ in clips]
    cases = {
        "PyTorchVideo's recipe": _each(_pytorchvideo, clips, changes),
        "float, cropped first": _each(_in_float, clips, changes),
    }
    missing = []
    for name, make in PEERS.items():
        try:
            cases[name.replace("==", " ")] = _each(make(), clips)
        except ImportError:
            missing.append(name)
    cases["tubelet"] = _each(_ours, clips, changes)
    title = f"{CLIPS} clips of 16 frames, {width}x{height} to 112x112: random resized crop, flip, jitter, normalise"
    return alternate(cases, title + (f" (missing: pip install {' '.join(missing)})" if missing else ""))


def _changes() -> Table:
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (3, 16, 112, 112), dtype=torch.uint8, generator=generator)
    clips = [clip] * CLIPS
    randaugment = [Augment(randaugment=2).draw((112, 112), SPEC, generator) for _ in clips]
    steps: dict[str, Steps] = {
        name: ((name, rest + 0.9 * reach),) for name, (rest, reach, _) in RANDAUGMENT.items() if name != "identity"
    }
    steps["hue"] = (("hue", 0.1),)
    steps["brightness to hue"] = (("brightness", 1.3), ("contrast", 0.8), ("saturation", 1.2), ("hue", 0.1))
    cases = {name: _each(lambda clip, step=step: transforms.change(clip, step), clips) for name, step in steps.items()}
    cases["RandAugment, 2 drawn"] = _each(lambda clip, change: change.apply(clip), clips, randaugment)
    cases["erase"] = _each(lambda clip: transforms.erase(clip, (20, 20, 50, 50), 0), clips)
    cases["flip"] = _each(transforms.flip, clips)
    cases["normalise"] = _each(lambda clip: transforms.normalize(clip, SPEC.mean, SPEC.std), clips)
    return alternate(cases, f"{CLIPS} clips of 16 frames at 112x112, each change by itself")


def tables() -> list[Table]:
    return [_pipelines(256, 340), _pipelines(128, 170), _changes()]
