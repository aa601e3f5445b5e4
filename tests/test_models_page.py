"""docs/models.md is written by docs/models.py."""

import importlib.util
import re
from pathlib import Path

import pytest

from tubelet.models import MODELS

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "models.md").read_text(encoding="utf-8")


def test_it_lists_every_network_in_its_order():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == [
        preset.name for preset in sorted(MODELS, key=lambda preset: preset.build.__module__)
    ]


@pytest.mark.slow
def test_it_is_what_the_script_writes():
    spec = importlib.util.spec_from_file_location("models_page", DOCS / "models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == PAGE
