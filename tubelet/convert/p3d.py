"""Key tables of Pseudo-3D ResNets."""

from __future__ import annotations

from .layout import Layout

LAYOUTS: tuple[Layout, ...] = ()
