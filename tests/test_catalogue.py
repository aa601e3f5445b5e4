import functools
import http.server
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from test_weights import SPEC, assert_same, tiny

import tubelet
from tubelet import weights
from tubelet.models import _check, ready

ROWS = {row.tag: row for row in weights.CATALOGUE}
DATASETS = {row.dataset: row.num_classes for row in weights.CATALOGUE}


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


def test_each_row_is_a_network_that_takes_its_arguments(row):
    assert row.model in tubelet.models()
    _check(row.model, row.arguments)


def test_each_row_says_what_its_clip_is(row):
    spec = row.spec
    assert spec.crop is not None
    assert 1 <= spec.num_frames <= 128
    assert spec.num_frames * spec.frame_stride / (spec.fps or 30) <= 12, "longer than any clip of these data sets"
    assert all(0 <= value <= 1 for value in (*spec.mean, *spec.std))
    smallest = min(spec.resize) if isinstance(spec.resize, tuple) else spec.resize
    assert min(spec.crop) <= smallest


def test_each_row_has_its_sources(row):
    assert re.fullmatch(rf"{row.model}\.{row.dataset}_\w+", row.tag)
    assert re.match(r"https://\S+$", row.url) and row.paper.startswith("https://arxiv.org/abs/")
    assert row.licence and row.protocol and row.file
    assert row.classes.startswith("http") or row.num_classes is None
    has_background = "_mmaction" in row.tag and row.dataset.startswith("ava")
    assert row.num_classes == (81 if has_background else DATASETS[row.dataset])
    assert re.fullmatch(r"[0-9a-f]{8}|", row.sha256)
    assert row.sha256 in row.file
    assert all(0 < value < 100 for value in row.metrics.values())
    assert set(row.metrics) <= {"top1", "top5", "mAP"}
    assert row.metrics.get("top1", 0) < row.metrics.get("top5", 100)


def test_names_are_unique():
    assert len(ROWS) == len(weights.CATALOGUE) > 140
    files = [(row.file, row.num_classes) for row in weights.CATALOGUE]
    assert len(set(files)) == len(files)
    hashes = [row.sha256 for row in weights.CATALOGUE if row.sha256]
    assert len(set(hashes)) == len(hashes)


def test_a_dataset_names_the_best_of_a_network():
    for row in weights.CATALOGUE:
        assert weights.find(row.tag) is row
        best = weights.find(row.dataset, row.model)
        assert best is weights.find(f"{row.model}.{row.dataset}")
        assert (best.model, best.dataset) == (row.model, row.dataset)
        assert best.quality >= row.quality
    assert weights.find("kinetics400", "r2plus1d_18").metrics["top1"] == 67.463
    assert weights.find("slowfast_r50.kinetics400").tag == "slowfast_r50.kinetics400_pyslowfast"
    assert weights.find("charades", "slow_r50").metrics == {"mAP": 34.72}
    assert weights.find("absent") is weights.find("kinetics400") is weights.find("kinetics400", "tiny") is None


def test_the_file_is_data():
    text = Path(weights.__file__).with_name("catalogue.json").read_text()
    assert [row["tag"] for row in json.loads(text)] == sorted(ROWS)
    assert len(text.splitlines()) == len(ROWS) + 2  # a row a line


# fetching


@pytest.fixture
def server(tmp_path_factory):
    """A folder that is served, its address, and the paths asked for."""
    folder, asked = tmp_path_factory.mktemp("served"), []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()
        thread.join()


@pytest.fixture
def ours(server, tmp_path, monkeypatch):
    """A row of the catalogue for `tiny`, whose file is on the server."""
    folder, address, _ = server
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in tiny().state_dict().items()}}, folder / "tiny.pth"
    )
    row = replace(
        weights.CATALOGUE[0],
        tag="tiny.toys_test",
        model="tiny",
        arguments={},
        dataset="toys",
        num_classes=3,
        url=f"{address}/tiny.pth",
        file="tiny.pth",
        sha256=sha256((folder / "tiny.pth").read_bytes()).hexdigest()[:8],
        spec=replace(SPEC, classes=()),
    )
    monkeypatch.setattr(weights, "CATALOGUE", (row,))
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "cache"))
    return row


def cached(tmp_path):
    return [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.name != ".lock"]


def test_a_file_is_downloaded_and_converted_once(server, ours, tmp_path):
    path = weights.fetch(ours)
    assert path == tmp_path / "cache" / "weights" / ours.tag / "tiny.safetensors"
    assert cached(tmp_path) == [path]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "tag": ours.tag}
        assert set(file.keys()) == set(tiny().state_dict())
    assert weights.fetch(ours) == path
    assert server[2] == ["/tiny.pth"]
    for tag in ("tiny.toys_test", "tiny.toys", "toys"):
        model = tubelet.create("tiny", weights=tag)
        assert_same(model, tiny())
        assert model.spec == ours.spec
    assert_same(tubelet.load(path), tiny())
    assert tubelet.load(path).spec == ours.spec
    _, spec = ready("tiny.toys")
    assert spec == ours.spec
    assert tubelet.create("tiny", num_classes=4, weights="toys").head.fc.out_features == 4
    assert server[2] == ["/tiny.pth"]


def test_two_that_want_a_file_at_once_download_it_once(server, ours):
    with ThreadPoolExecutor(2) as both:
        one, other = both.map(weights.fetch, [ours, ours])
    assert one == other and server[2] == ["/tiny.pth"]


def test_a_download_that_cannot_be_written_is_kept(server, ours, tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(weights, "_write", lambda *_: raises(OSError("No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            weights.fetch(ours)
    assert [file.name for file in cached(tmp_path)] == ["tiny.pth"]
    assert weights.fetch(ours).exists() and server[2] == ["/tiny.pth"]


def raises(error):
    raise error


def test_a_file_put_there_by_hand_is_taken_and_kept(server, ours, tmp_path):
    place = tmp_path / "cache" / "weights" / ours.tag / "tiny.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes((server[0] / "tiny.pth").read_bytes())
    assert_same(tubelet.create("tiny", weights="toys"), tiny())
    assert {file.name for file in cached(tmp_path)} == {"tiny.pth", "tiny.safetensors"}
    assert not server[2]


def test_another_file_put_there_by_hand_is_an_error(ours, tmp_path):
    place = tmp_path / "cache" / "weights" / ours.tag / "tiny.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"tiny\.toys_test: its hash is .*put it at .*tiny\.pth"):
        weights.fetch(ours)
    assert cached(tmp_path) == [place]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "00000000"}, "its hash is .*removed"),
        ({"url": "http://127.0.0.1:9/tiny.pth"}, "refused"),
        ({"url": "{address}/absent.pth", "file": "absent.pth"}, "404"),
    ],
)
def test_a_download_that_fails_is_one_error_and_leaves_no_file(server, ours, tmp_path, change, message):
    changed = replace(ours, **{key: value.format(address=server[1]) for key, value in change.items()})
    place = re.escape(str(tmp_path / "cache" / "weights" / ours.tag / changed.file))
    with pytest.raises(ValueError, match=rf"tiny\.toys_test: .*{changed.url}.*{message}.*put it at {place}$") as caught:
        weights.fetch(changed)
    assert "\n" not in str(caught.value)
    assert not cached(tmp_path)


def test_a_page_in_place_of_the_file_is_an_error_and_not_kept(server, ours, tmp_path):
    (server[0] / "tiny.pth").write_text("<!DOCTYPE html><html>please log in</html>")
    with pytest.raises(ValueError, match=r"tiny\.pth: .*a page of text"):
        weights.fetch(replace(ours, sha256=""))
    assert not cached(tmp_path)


def test_what_only_a_person_can_download_is_said(ours, tmp_path):
    changed = replace(ours, url="https://drive.example.org/folder")
    assert changed.is_by_hand
    with pytest.raises(
        ValueError, match=r"get tiny\.pth from https://drive\.example\.org/folder and put it at .*tiny\.pth"
    ):
        weights.fetch(changed)


def test_tags_that_do_not_fit(ours):
    with pytest.raises(ValueError, match=r"'tiny\.toys_test' are for tiny, not for tiny_2d"):
        tubelet.create("tiny_2d", weights="tiny.toys_test")
    for tag, near in (("tiny.toys_tst", "tiny.toys_test"), ("toy", "toys"), ("tiny.toy", "tiny.toys")):
        with pytest.raises(
            ValueError, match=rf"'{tag}' is neither a file nor a tag; .*(did you mean|published) .*{near}"
        ):
            tubelet.create("tiny", weights=tag)
    with pytest.raises(ValueError, match=r"absent/m\.pth' is neither a file"):
        tubelet.create("tiny", weights="absent/m.pth")


# the row of a file that a person downloaded


def saved(name, path, **options):
    torch.manual_seed(0)
    torch.save(tubelet.create(name, **options).state_dict(), path)
    return path


def test_a_file_with_a_published_name_has_its_clip(tmp_path):
    model = tubelet.load(saved("x3d_xs", tmp_path / "x3d_s.pyth"))
    row = ROWS["x3d_s.kinetics400_pyslowfast"]
    assert model.architecture["name"] == "x3d_s"
    assert model.spec == row.spec


def test_a_file_with_other_classes_or_of_another_family_has_not(tmp_path):
    model = tubelet.load(saved("x3d_xs", tmp_path / "x3d_s.pyth", num_classes=7))
    assert model.spec != ROWS["x3d_s.kinetics400_pyslowfast"].spec
    model = tubelet.load(saved("tiny", tmp_path / "x3d_m.pyth"))
    assert model.architecture["name"] == "tiny"


def test_the_row_tells_what_keys_do_not(tmp_path):
    file = ROWS["slowfast_4x16_r50.kinetics400_pytorchvideo"].file
    with torch.device("meta"):
        state = tubelet.create("slowfast_4x16_r50").state_dict()
    torch.save({key: torch.zeros(value.shape, dtype=value.dtype) for key, value in state.items()}, tmp_path / file)
    assert tubelet.load(tmp_path / file).alpha == 8
    assert tubelet.load(tmp_path / file, alpha=2).alpha == 2
