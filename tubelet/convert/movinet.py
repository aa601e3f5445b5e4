"""Key tables of MoViNet."""

from __future__ import annotations

from .layout import Layout

LAYOUTS: tuple[Layout, ...] = ()
