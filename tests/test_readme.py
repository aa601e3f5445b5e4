"""What the README says to type runs, and its tree is the tree."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tubelet
from tubelet.data.layouts import open_data

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


PROSE = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "tubelet").rglob("*.py")]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_called_is_there(path):
    """`tubelet.optimize(...)` is what a reader types."""
    for name in set(re.findall(r"\btubelet\.(\w+)\(", path.read_text())):
        assert callable(getattr(tubelet, name, None)), name


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


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize(
    ("slot", "num_classes", "train", "val"), [((), 51, 3600, 1200), (("digit", "8"), 10, 600, 200)]
)
def test_the_list_of_words_is_made(tmp_path, slot, num_classes, train, val):
    corpus = ROOT.parent / "shared" / "data" / "grid"
    if not corpus.exists():
        pytest.skip("../shared/data is absent")
    script = ROOT / "examples" / "lip_words.py"
    subprocess.run([sys.executable, script, corpus, tmp_path / "words.csv", *slot], check=True, capture_output=True)
    found = open_data(tmp_path / "words.csv")
    assert len(found.classes) == num_classes
    assert {name: len(samples) for name, samples in found.splits.items()} == {"train": train, "val": val}
    # the first word of the corpus lasts from frame 17 to 23
    assert any(sample.name.endswith("bbaf4p.mp4[14:26]") for sample in found.splits["train"]) == (not slot)


@pytest.mark.slow
def test_the_demo_reaches_what_it_promises(tmp_path):
    """The 3D network reads motion, neither one frame of it nor the frame-by-frame twin does; the page is whole."""
    environment = {**os.environ, "TUBELET_CACHE": str(tmp_path / "cache")}
    subprocess.run([sys.executable, ROOT / "examples" / "demo.py"], cwd=tmp_path, env=environment, check=True)
    tiny, twin = (
        json.loads((tmp_path / "runs" / "demo" / name / "evaluate" / "evaluate.json").read_text())["summary"]
        for name in ("tiny", "tiny_2d")
    )
    assert tiny["top1"] >= 0.95
    assert tiny["audit single frame"] <= 1 / 8 + 0.15
    assert twin["top1"] <= 1 / 8 + 0.15
    page = (tmp_path / "runs" / "demo" / "report.html").read_text()
    assert page.count("data:image/png") >= 8 + 2 * 3 + 1 and "data:video/mp4" in page


def test_the_demo_looks_at_ones_own_video_first(tmp_path):
    demo = [sys.executable, ROOT / "examples" / "demo.py", "gone.mp4"]
    done = subprocess.run(demo, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (1, "demo: gone.mp4: no such file")
