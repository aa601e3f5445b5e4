"""Convolutional networks over space and a third axis: time in video, depth in CT and MRI."""

__version__ = "0.1.0"

from . import blocks, decoders, heads
from .convert import convert
from .evaluate import evaluate
from .export import export
from .features import features
from .models import create, load, models
from .optimize import optimize
from .predict import Prediction, predict
from .report import report
from .run import Run
from .spec import ClipSpec
from .stream import Stream
from .terminal import Table
from .train import train
from .weights import save

__all__ = [
    "ClipSpec",
    "Prediction",
    "Run",
    "Stream",
    "Table",
    "blocks",
    "convert",
    "create",
    "decoders",
    "evaluate",
    "export",
    "features",
    "heads",
    "load",
    "models",
    "optimize",
    "predict",
    "report",
    "save",
    "train",
]
