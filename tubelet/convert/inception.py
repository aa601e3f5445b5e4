"""Key tables of Inception networks over video: I3D, S3D."""

from __future__ import annotations

from .layout import Layout

LAYOUTS: tuple[Layout, ...] = ()
