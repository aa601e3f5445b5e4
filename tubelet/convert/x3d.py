"""Key tables of X3D."""

from __future__ import annotations

from .layout import Layout

LAYOUTS: tuple[Layout, ...] = ()
