"""The python blocks of each page of the documentation run, in their order, in an empty folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))


def code(page):
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


LONG = {"backends", "export", "memory", "train"}  # pages whose examples take 10 s and more


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in LONG else [])
        for page in PAGES
        if code(page)
    ],
)
def test_examples_run(page, tmp_path):
    script = "import torch; torch.set_num_threads(1)\n" + code(page)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
