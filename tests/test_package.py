"""A wheel builds, holds what it must, installs into an empty environment and works there."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT], check=True, capture_output=True
    )
    (file,) = folder.glob("*.whl")
    return file


def test_the_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "tubelet/page.html.j2" in names and any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"tubelet"}


def test_it_installs_into_an_empty_environment(wheel, tmp_path):
    """Without extras: networks and streams work, and what needs an extra says which."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    code = (
        "import torch, tubelet; print(tuple(tubelet.create('tiny', num_classes=5)(torch.rand(1, 3, 8, 32, 32)).shape))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "(1, 5)"
    command = tmp_path / "env" / "bin" / "tubelet"
    listed = subprocess.run([command, "models"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "r2plus1d_18" in listed.stdout
    (tmp_path / "a.mp4").write_bytes(b"not read before the reader is there")
    code = "from tubelet.data.video import Video; Video('a.mp4')"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert 'pip install "tubelet[video]"' in done.stderr
