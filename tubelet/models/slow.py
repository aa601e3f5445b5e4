"""Bottleneck video ResNets: Slow, I3D, C2D, CSN, R(2+1)D."""

from __future__ import annotations

from ..preset import Preset

PRESETS: tuple[Preset, ...] = ()
