"""3D U-Nets."""

from __future__ import annotations

from ..preset import Preset

PRESETS: tuple[Preset, ...] = ()
