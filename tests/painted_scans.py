"""Small scans with a ball (class 1, bright) and a cube (class 2, dark), and a network that needs no training."""

import numpy as np
import torch
from torch import nn

import tubelet
from tubelet.data.volume import Grid, write_volume
from tubelet.spec import Intensity

SIZE = (20, 24, 18)
FLAT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # rows to the left, columns to the back


def painted(seed, size=SIZE, channels=1):
    """A scan (C, D, H, W) and its mask (D, H, W)."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    mask = np.zeros(size, np.uint8)
    mask[((place - rng.integers(6, np.array(size) - 6)) ** 2).sum(-1) < 16] = 1
    d, h, w = rng.integers(1, np.array(size) - 6)
    cube = mask[d : d + 5, h : h + 5, w : w + 5]
    cube[cube == 0] = 2
    noise = rng.normal(0, 10, (channels, *size))
    return (noise + np.array([0, 100, -100])[mask]).astype(np.float32), mask


def write_scans(root, number=12, grid=None, channels=1, ending=".nii.gz"):
    """`images/` and `labels/` of so many scans."""
    for i in range(number):
        for folder, array in zip(("images", "labels"), painted(i, channels=channels), strict=True):
            (root / folder).mkdir(parents=True, exist_ok=True)
            write_volume(root / folder / f"c{i:02}{ending}", array, grid or Grid(SIZE, (1.0, 1.0, 1.0)))
    return root


def write_table(root, folds, name="cases.csv"):
    """A table of the scans of `write_scans` with the fold of each, None for none."""
    rows = [f"images/c{i:02}.nii.gz,labels/c{i:02}.nii.gz,{fold}" for i, fold in enumerate(folds)]
    (root / name).write_text("\n".join(["image,label,fold", *rows]) + "\n")
    return root / name


def write_slice(path, values, position, *, along=FLAT, series="1.2.3", spacing=(0.7, 0.8), rescale=(1, 0), tags=None):
    """A slice (H, W) of int16, where its position and directions say."""
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray((values * rescale[0] + rescale[1])[None].astype(np.int16))
    image.SetSpacing((*spacing, 1.0))
    held = {
        "0008|0060": "CT", "0008|103e": f"Brain {series}", "0020|000d": "1.2", "0020|000e": series,
        "0020|0032": "\\".join(f"{value:.6f}" for value in position),
        "0020|0037": "\\".join(f"{value:.10f}" for value in along),
        "0028|1052": str(rescale[1]), "0028|1053": str(rescale[0]),
        **(tags or {}),
    }  # fmt: skip
    for tag, value in held.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)


class Thresholds(nn.Module):
    """Class 1 above a value of all channels' mean, class 2 below its negative; it needs no training."""

    def __init__(self, channels=1, value=50.0, **spec):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        wide = {"mean": (0.5,) * channels, "std": (1 / 2000,) * channels}  # with this window, values stay as they are
        clip = {"num_frames": 8, "crop": (8, 8), "resize": None, "orientation": "SPL"}
        names = {"classes": ("background", "ball", "cube"), "intensity": Intensity("window", -1000.0, 1000.0)}
        self.spec = tubelet.ClipSpec(**{**clip, **names, **wide, **spec})

    def forward(self, x):
        """(B, C, D, H, W) -> (B, 3, D, H, W)."""
        x = x.mean(1)
        return torch.stack([torch.zeros_like(x), x - self.value, -x - self.value], 1)


def expected(scan, value=50.0):
    """What `Thresholds` answers to (C, D, H, W)."""
    mean = scan.mean(0)
    return np.where(mean > value, 1, np.where(mean < -value, 2, 0)).astype(np.uint8)
