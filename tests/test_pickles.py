import codecs
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from tubelet.pickles import Inert, Shell, read_pickle, read_zip


def loads(content):
    return Inert(io.BytesIO(content)).load()


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_plain_containers_and_arrays(protocol):
    content = {"a": [1, 2.5, "text", b"bytes", None, True], "b": (1, {"c": np.arange(6.0).reshape(2, 3)})}
    found = loads(pickle.dumps(content, protocol))
    assert found["a"] == content["a"]
    assert np.array_equal(found["b"][1]["c"], content["b"][1]["c"])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "evil",
    [
        Calls(eval, "open('run', 'w')"),
        Calls(exec, "open('run', 'w')"),
        Calls(open, "run", "w"),
        Calls(subprocess.run, ["touch", "run"]),
        Calls(codecs.encode, "run", "rot13"),
        Calls(getattr, "text", "upper"),
        Calls(torch.load, "run"),
        Calls(torch.hub.load, "run", "run"),
    ],
    ids=lambda evil: evil.call[0].__name__,
)
def test_nothing_is_called(tmp_path, monkeypatch, protocol, evil):
    monkeypatch.chdir(tmp_path)
    found = loads(pickle.dumps({"a": 1, "b": evil, "c": Calls(map, evil, [1])}, protocol))
    assert found["a"] == 1
    assert not list(tmp_path.iterdir())
    for key in "bc":
        assert isinstance(found[key], Shell | bytes)


def evil_array():
    """A pickle of an array of objects whose dtype says that it holds none, filled with bytes for pointers, and used."""

    def named(module, name):
        return f"c{module}\n{name}\n".encode()

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def number(value):
        return b"J" + value.to_bytes(4, "little", signed=True)

    state = b"(" + number(3) + text("|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    dtype = named("numpy", "dtype") + b"(" + text("O8") + b"\x89\x88tR" + state
    raw = named("_codecs", "encode") + b"(" + text("A" * 8) + text("latin1") + b"tR"
    array = named("numpy.core.multiarray", "_reconstruct") + b"(" + named("numpy", "ndarray") + b"(" + number(0) + b"t"
    array += text("b") + b"tR(" + number(1) + b"(" + number(1) + b"t" + dtype + b"\x89" + raw + b"tb"
    return b"\x80\x02}" + text("w") + array + number(0) + number(7) + b"ss."


def test_bytes_of_a_file_are_no_pointers(tmp_path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(evil_array())
    code = f"from tubelet import weights\ntry: weights.read({str(path)!r})\nexcept ValueError as e: print('told', e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"told {path}: not a file of weights")
    for array in (np.array([{}, "a"], object), np.array([(1, None)], [("a", "i4"), ("b", "O")])):
        assert loads(pickle.dumps(array)).size == 0
    words = np.array(["left", "right"])
    assert np.array_equal(loads(pickle.dumps(words)), words)


def test_no_module_is_imported(monkeypatch):
    monkeypatch.setattr("builtins.__import__", lambda *names, **_: pytest.fail(f"imports {names[0]}"))
    assert isinstance(loads(b"cantigravity\nfly\n)R."), Shell)


@pytest.mark.parametrize(
    "name", ["torch._utils\n_rebuild_tensor_v2", "torch\nFloatStorage", "numpy\nndarray", "collections\nOrderedDict"]
)
def test_what_a_pickle_is_given_is_nothing_of_ours_to_change(name):
    # builds the state (None, {"a": 1}), which sets an attribute
    try:
        loads(b"c" + name.encode() + b"\n(N}U\x01aK\x01stb.")
    except (AttributeError, TypeError):  # what cannot be changed
        return
    assert not hasattr(torch._utils._rebuild_tensor_v2, "a")


def test_shells_take_all_that_pickles_do_to_objects():
    shell = type("X", (Shell,), {})(1, b=2)
    shell["a"] = 1
    shell.append(1)
    shell.extend([1])
    shell.add(1)
    shell.__setstate__({"a": 1})
    assert shell(1, 2) is shell


def test_tensors_of_both_formats(tmp_path):
    base = torch.arange(24.0)
    content = {
        "a": base.reshape(4, 6).T,
        "b": base[3:7],
        "same": base,
        "empty": torch.empty(0, 3),
        "f": torch.ones(2).half(),
    }
    for new, reader in ((True, read_zip), (False, read_pickle)):
        torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=new)
        found = reader(tmp_path / "m.pth")
        for key, value in content.items():
            assert torch.equal(found[key], value)
            assert found[key].dtype is value.dtype


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path):
    class Reaches:
        def __reduce_ex__(self, protocol):
            storage = torch.ones(2).storage()
            return torch._utils._rebuild_tensor_v2, (storage, 0, (1000,), (1,), False, {})

    torch.save({"a": Reaches()}, tmp_path / "m.pth")
    with pytest.raises(RuntimeError, match="out of bounds"):
        read_zip(tmp_path / "m.pth")
