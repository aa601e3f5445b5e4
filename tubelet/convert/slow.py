"""Key tables of Bottleneck video ResNets: Slow, I3D, C2D, CSN, R(2+1)D."""

from __future__ import annotations

from .layout import Layout

LAYOUTS: tuple[Layout, ...] = ()
