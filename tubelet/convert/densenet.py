"""Key tables of 3D DenseNet."""

from __future__ import annotations

from .layout import Layout

LAYOUTS: tuple[Layout, ...] = ()
