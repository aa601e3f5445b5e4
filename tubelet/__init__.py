"""Convolutional networks over space and a third axis: time in video, depth in CT and MRI."""

__version__ = "0.1.0"

from . import blocks, heads
from .convert import convert
from .models import create, load, models
from .spec import ClipSpec
from .stream import Stream
from .weights import save

__all__ = ["ClipSpec", "Stream", "blocks", "convert", "create", "heads", "load", "models", "save"]
