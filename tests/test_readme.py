"""What the README says to type runs, and its tree is the tree."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in fences if name == language]


def test_make_targets_exist():
    for line in blocks("")[0].split("\n"):
        if line:
            subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, check=True, capture_output=True)
    for target in re.findall(r"`make ([\w-]+)`", README):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_commands_and_python_run(tmp_path):
    """In their order, in one folder; training is cut to two epochs."""
    environment = {**os.environ, "TUBELET_CACHE": str(tmp_path / "cache")}
    for line in "".join(blocks("sh")).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "tubelet"
        if arguments[0] == "train":
            arguments += ["--epochs", "2"]
        done = subprocess.run(
            [sys.executable, "-m", "tubelet", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    for code in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_the_tree_is_the_tree():
    (tree,) = [block for block in blocks("") if block.startswith("tubelet/")]
    files = {path.name for path in (ROOT / "tubelet").glob("*.py") if not path.name.startswith("__")}
    assert set(re.findall(r"\b(\w+\.py)\b", tree)) - {"test_layers.py"} == files
    families = {path.stem for path in (ROOT / "tubelet" / "models").glob("[a-z]*.py")}
    sources = {path.stem for path in (ROOT / "tubelet" / "data").glob("[a-z]*.py")}
    for name in families | sources:
        assert re.search(rf"\b{name}\b", tree), f"{name} is not in the README's tree"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 60
