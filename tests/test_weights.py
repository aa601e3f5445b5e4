import functools
import http.server
import json
import logging
import threading
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_convert import RESNETS, foreign
from torch import nn

import tubelet
from tubelet import ClipSpec, weights
from tubelet.heads import Classify, Features, PerFrame

SPEC = ClipSpec(num_frames=8, fps=12.5, resize=(30, 40), crop=(24, 24), classes=("a", "é", "c"))
HEADS = {"Classify": Classify, "PerFrame": PerFrame, "Features": lambda *_, **__: Features()}


@functools.cache
def made(name):
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=3).eval()
    for buffer_name, value in model.named_buffers():
        if buffer_name.endswith("running_mean"):
            value.normal_()
    model.spec = SPEC
    return model


def tiny(num_classes=3):
    torch.manual_seed(1)
    return tubelet.create("tiny", num_classes=num_classes).eval()


def assert_same(one, two):
    ours, theirs = one.state_dict(), two.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


# our own files


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", tubelet.models())
def test_a_file_gives_the_network_back(tmp_path, monkeypatch, name, head):
    model = made(name)
    monkeypatch.setitem(model._modules, "head", HEADS[head](model.channels[-1], 3, dropout=0.25).eval())
    path = tubelet.save(model, tmp_path / "m.safetensors")
    loaded = tubelet.load(path)
    path.unlink()
    assert type(loaded.head) is type(model.head)
    assert loaded.architecture == model.architecture
    assert loaded.spec == SPEC
    assert not loaded.training
    assert_same(model, loaded)
    if name.startswith("tiny"):
        x = torch.rand(1, 3, 4, 16, 16)
        with torch.no_grad():
            assert torch.equal(model(x), loaded(x))


def test_the_header_tells_everything(tmp_path):
    model = tubelet.create("tiny", num_classes=3, in_channels=1)
    path = tubelet.save(model, tmp_path / "new" / "folder" / "m.safetensors", metrics={"top1": 0.75})
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["tubelet"])
    assert header["format"] == weights.FORMAT
    assert header["architecture"] == {"name": "tiny", "arguments": {"num_classes": 3, "in_channels": 1}}
    assert header["head"]["name"] == "Classify"
    assert header["metrics"] == {"top1": 0.75}
    assert header["versions"] == {"tubelet": tubelet.__version__, "torch": torch.__version__}
    assert ClipSpec.from_dict(header["spec"]) == model.spec
    assert load_file(path).keys() == model.state_dict().keys()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_folder_of_a_run_is_its_file(tmp_path):
    tubelet.save(made("tiny"), tmp_path / "model.safetensors")
    assert_same(tubelet.load(tmp_path), made("tiny"))
    assert tubelet.load(str(tmp_path)).spec == SPEC


def test_views_and_shared_memory_are_saved(tmp_path):
    model = tiny()
    model.head.fc.weight = nn.Parameter(torch.rand(64, 3).T)
    assert_same(tubelet.load(tubelet.save(model, tmp_path / "m.safetensors")), model)


CHANGES = {
    "another norm": lambda model: setattr(model.stages[1].branch, "norm1", nn.InstanceNorm3d(32)),
    "another activation": lambda model: setattr(model.stages[0], "act", nn.SiLU()),
    "another stride": lambda model: setattr(model.stem.conv, "stride", (1, 1, 1)),
    "one stage less": lambda model: model.stages.__delitem__(2),
    "one layer more": lambda model: model.stages.append(nn.Dropout(0.5)),
    "another shape": lambda model: setattr(model.stem.conv, "weight", nn.Parameter(torch.zeros(16, 1, 1, 5, 5))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_no_file_could_rebuild_is_not_saved(tmp_path, change):
    model = tiny()
    CHANGES[change](model)
    with pytest.raises(ValueError, match=r"layers are not those that tiny is made with, first (stages|stem)\."):
        tubelet.save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
    model.architecture = None
    path = tubelet.save(model, tmp_path / "m.safetensors")
    assert load_file(path).keys() == model.state_dict().keys()


def test_another_kind_of_head_is_not_saved(tmp_path):
    model = tiny()
    model.head = nn.Identity()
    with pytest.raises(ValueError, match="Identity cannot be saved as a head"):
        tubelet.save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_network_of_others_is_saved_without_its_call(tmp_path):
    model = nn.Conv3d(3, 4, 1)
    path = tubelet.save(model, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: .* tubelet did not make; build it"):
        tubelet.load(path)
    assert weights.read(path).state.keys() == model.state_dict().keys()


def test_a_file_of_a_later_format(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"tubelet": json.dumps({"format": "tubelet-9"})})
    with pytest.raises(ValueError, match=r"m\.safetensors: format 'tubelet-9'.*'tubelet-1'.*upgrade"):
        tubelet.load(path)


# weights into a new network


def test_other_classes_make_a_new_head(tmp_path, caplog):
    path = tubelet.save(made("tiny"), tmp_path / "m.safetensors")
    with caplog.at_level(logging.INFO, "tubelet"):
        same = tubelet.create("tiny", num_classes=3, weights=path)
        assert not caplog.messages
        other = tubelet.create("tiny", num_classes=5, weights=path)
    (message,) = caplog.messages
    assert f"{path} answers 3 classes" in message
    assert "5" in message
    assert "head is new" in message
    assert_same(same, made("tiny"))
    assert same.spec == SPEC
    assert other.head.fc.out_features == 5
    assert other.spec == replace(SPEC, classes=())
    assert_same(other.stages, made("tiny").stages)
    assert_same(tubelet.load(tubelet.save(other, tmp_path / "other.safetensors")), other)


@pytest.mark.parametrize(("head", "num"), [(PerFrame(64, 3), 3), (Features(), 0)])
def test_other_classes_after_another_head(tmp_path, caplog, head, num):
    model = tiny()
    model.head = head
    path = tubelet.save(model, tmp_path / "m.safetensors")
    other = tubelet.create("tiny", num_classes=5, weights=path)
    assert type(other.head) is Classify
    assert other.head.fc.out_features == 5
    assert f"answers {num} classes" in caplog.text
    assert_same(other.stages, model.stages)


def test_another_networks_weights_are_one_error(tmp_path):
    ours = tubelet.save(made("tiny"), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"m\.safetensors: holds tiny, not tiny_2d"):
        tubelet.create("tiny_2d", num_classes=3, weights=ours)
    plain = tmp_path / "m.pth"
    torch.save(made("tiny").state_dict(), plain)
    with pytest.raises(
        ValueError, match=r"m\.pth: the checkpoint .* does not fit tiny_2d .*missing.*left over"
    ) as caught:
        tubelet.create("tiny_2d", num_classes=3, weights=plain)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"m\.safetensors: .* of another shape: stem\.conv\.weight .*3.* for .*1"):
        tubelet.create("tiny", num_classes=3, in_channels=1, weights=ours)


def test_an_unknown_network_is_one_error(tmp_path):
    torch.save({"a.weight": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=r"m\.pth: no known network has these 2 keys \(a\.weight, b.*create\(NAME"):
        tubelet.load(tmp_path / "m.pth")


# files of others


@pytest.mark.parametrize("name", RESNETS)
def test_a_file_of_torchvision_is_recognised(tmp_path, name):
    model = made(name)
    path = tmp_path / "m.pth"
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in foreign(model).items()}}, path)
    loaded = tubelet.load(path)
    path.unlink()
    assert loaded.architecture["name"] == name
    assert_same(model, loaded)


STATE = {"a.weight": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int64)}
PREFIXED = {f"module.{key}": value for key, value in STATE.items()}
WRAPPED = {
    "plain": STATE,
    "parallel": PREFIXED,
    "state_dict": {"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}},
    "model": {"model": PREFIXED},
    "model_state": {"model_state": STATE, "cfg": "text"},
    "twice": {"model": {"state_dict": PREFIXED}},
    "with other values": {**STATE, "version": 3},
}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrapper, old_format):
    torch.save(WRAPPED[wrapper], tmp_path / "m.pth", _use_new_zipfile_serialization=not old_format)
    state = weights.read(tmp_path / "m.pth").state
    assert state.keys() == STATE.keys()
    assert all(torch.equal(value, STATE[key]) for key, value in state.items())


def test_a_prefix_of_some_is_no_prefix(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "m.pth")
    assert set(weights.read(tmp_path / "m.pth").state) == {"module.a", "b"}


def test_plain_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "m.safetensors", metadata={"format": "pt"})
    checkpoint = weights.read(tmp_path / "m.safetensors")
    assert checkpoint.header is None
    assert checkpoint.state.keys() == STATE.keys()


class Code:
    def __reduce__(self):
        return eval, ("open('run', 'w')",)


def truncated(path):
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def truncated_zip(path):
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


BAD_FILES = {
    "absent.pth": (lambda path: None, "no such file"),
    "absent.safetensors": (lambda path: None, "no such file"),
    "text.pth": (lambda path: path.write_text("version https://git-lfs\noid sha256:1\n"), "not a file of weights"),
    "page.pt": (lambda path: path.write_text("<!DOCTYPE html><html>"), "not a file of weights"),
    "empty.pth": (lambda path: path.touch(), "not a file of weights"),
    "empty.safetensors": (lambda path: path.touch(), "not a safetensors file, or a damaged one"),
    "text.safetensors": (lambda path: path.write_text("hello " * 9), "not a safetensors file, or a damaged one"),
    "cut.safetensors": (truncated, "not a safetensors file, or a damaged one"),
    "cut.pth": (truncated_zip, "not a file of weights"),
    "code.pth": (lambda path: torch.save({"a": torch.zeros(1), "b": Code()}, path), "not a file .* read safely"),
    "list.pth": (lambda path: torch.save([torch.zeros(1)], path), "holds a list, not a mapping"),
    "numbers.pth": (lambda path: torch.save({"a": 1}, path), "holds no tensors"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_named_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make, message = BAD_FILES[name]
    path = tmp_path / name
    make(path)
    with pytest.raises(ValueError, match=message) as caught:
        weights.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_is_that_of_a_run(tmp_path):
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file of weights"):
        weights.read(tmp_path)
    tubelet.save(made("tiny"), tmp_path / "model.safetensors")
    assert weights.read(tmp_path).header["architecture"]["name"] == "tiny"


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.text("q(}.\x80\x020KJ]abX", max_size=20).map(str.encode)))
def test_any_bytes_are_weights_or_a_named_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"any\.pth: "):
        weights.read(path)


# the catalogue


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
def row(server, tmp_path, monkeypatch):
    """A row of the catalogue for `tiny`, whose file is on the server."""
    folder, address, _ = server
    torch.save(tiny().state_dict(), folder / "tiny.pth")
    digest = sha256((folder / "tiny.pth").read_bytes()).hexdigest()[:8]
    row = replace(
        weights.CATALOGUE[0], tag="tiny.test", model="tiny", url=f"{address}/tiny.pth", sha256=digest, spec=SPEC
    )
    monkeypatch.setattr(weights, "CATALOGUE", (row,))
    monkeypatch.setenv("TUBELET_CACHE", str(tmp_path / "cache"))
    return row


def cached(tmp_path):
    return [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_a_published_file_is_downloaded_once(server, row, tmp_path):
    path = weights.fetch(row)
    assert cached(tmp_path) == [path]
    assert weights.fetch(row) == path
    assert server[2] == ["/tiny.pth"]
    model = tubelet.create("tiny", num_classes=3, weights="tiny.test")
    assert_same(model, tiny())
    assert model.spec == SPEC
    assert tubelet.create("tiny", num_classes=4, weights="tiny.test").spec == replace(SPEC, classes=())
    assert server[2] == ["/tiny.pth"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "00000000"}, "hash"),
        ({"url": "http://127.0.0.1:9/tiny.pth"}, "refused"),
        ({"url": "{address}/absent.pth"}, "404"),
    ],
)
def test_a_download_that_fails_is_one_error_and_leaves_no_file(server, row, tmp_path, change, message):
    changed = replace(row, **{key: value.format(address=server[1]) for key, value in change.items()})
    with pytest.raises(ValueError, match=rf"tiny\.test: .*{changed.url}.*{message}.*pass its path as weights"):
        weights.fetch(changed)
    assert not cached(tmp_path)


def test_tags_that_do_not_fit(row):
    with pytest.raises(ValueError, match=r"'tiny\.test' are for tiny, not for tiny_2d"):
        tubelet.create("tiny_2d", weights="tiny.test")
    for tag in ("tiny.tst", "tiny_test"):
        with pytest.raises(ValueError, match=rf"'{tag}' is neither a file nor a tag; did you mean tiny\.test"):
            tubelet.create("tiny", weights=tag)
    with pytest.raises(ValueError, match=r"absent/m\.pth' is neither a file"):
        tubelet.create("tiny", weights="absent/m.pth")


def test_every_row_of_the_catalogue_is_a_network_with_its_recipe():
    tags = [row.tag for row in weights.CATALOGUE]
    assert len(set(tags)) == len(tags)
    for row in weights.CATALOGUE:
        assert weights.find(row.tag) is row
        assert row.model in tubelet.models()
        assert row.sha256 in row.url
        assert row.spec.in_channels == 3
        assert 0 < row.metrics["top1"] < row.metrics["top5"] < 100
    assert weights.find("absent") is None


@pytest.mark.parametrize("name", tubelet.models())
def test_a_plain_state_dict_of_ours_is_recognised(tmp_path, name):
    torch.save(made(name).state_dict(), tmp_path / "m.pth")
    model = tubelet.load(tmp_path / "m.pth")
    assert model.architecture["name"] == name
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in made(name).state_dict().items())
