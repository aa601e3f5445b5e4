"""What is exported answers as the network does, at sizes that the exporter did not see, and says what it is."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import tubelet
from tubelet.cli import main
from tubelet.data.video import write_video
from tubelet.models import MODELS
from tubelet.runtimes import ALONE

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

KINDS = {}
for preset in MODELS:
    KINDS.setdefault(preset.build, preset.name)  # as in test_every_model
MORE = ("c2d_r50_nl", "tsm_r18", "slowfast_r50_nl", "residual_unet_se3d", "movinet_a0_stream")
STREAMED = ("tiny", "mc3_18", "tsm_mobilenetv2", "movinet_a0_stream", "densenet3d_121", "s3d", "c2d_r50")


def network(name, **arguments):
    """With norms that are not those of a new network, which change nothing."""
    torch.manual_seed(0)
    model = tubelet.create(name, num_classes=5, **arguments).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 2)
            if layer.weight is not None:
                torch.nn.init.uniform_(layer.weight, 0.7, 1.3)
    return model


@pytest.fixture(scope="module")
def tiny():
    model = network("tiny")
    model.spec = tubelet.ClipSpec(8, crop=(32, 32), classes=("a", "b", "c", "d", "e"), mean=(0.4, 0.5, 0.6))
    return model


@pytest.fixture(scope="module")
def file(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "tiny.onnx"
    return path, tubelet.export(tiny, path)


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, {name: each.numpy() for name, each in zip(names, inputs, strict=True)})


def test_onnx_answers_alike_at_any_size(file, tiny):
    path, report = file
    onnx.checker.check_model(path)
    assert [check.clip for check in report.checks] == ["noise", "larger", "smaller"]
    assert len({check.size for check in report.checks}) == 3
    assert all(check.relative < 1e-5 and check.top1 == 1 for check in report.checks)
    for size in ((1, 3, 8, 32, 32), (4, 3, 13, 49, 38), (1, 3, 5, 20, 70)):
        clip = torch.randn(size)
        with torch.no_grad():
            np.testing.assert_allclose(run(path, clip)[0], tiny(clip).numpy(), rtol=1e-4, atol=1e-5)


def test_the_report_tells_what_was_compared(file):
    path, report = file
    text = str(report)
    assert text.startswith(f"{path} (") and "onnxruntime" in text
    assert "clip: batch x 3 x frames x height x width" in text
    assert "1 x 3 x 8 x 32 x 32" in text and "100.0 %" in text


def test_the_file_says_how_to_prepare_a_clip_and_what_it_answers(file, tiny):
    path, _ = file
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    note = json.loads(session.get_modelmeta().custom_metadata_map["tubelet"])
    assert note["classes"] == ["a", "b", "c", "d", "e"]
    assert (note["mean"], note["std"], note["scale"]) == ([0.4, 0.5, 0.6], [0.225] * 3, 1 / 255)
    assert tubelet.ClipSpec.from_dict(note["spec"]) == tiny.spec
    assert [each.name for each in session.get_inputs()] == ["clip"]
    assert session.get_inputs()[0].shape[1] == 3


def test_pt2_holds_the_same(tiny, tmp_path):
    report = tubelet.export(tiny, tmp_path / "tiny.pt2")
    assert report.runtime == "torch.export" and len(report.checks) == 3
    extra = {"tubelet.json": ""}
    program = torch.export.load(tmp_path / "tiny.pt2", extra_files=extra)
    assert json.loads(extra["tubelet.json"])["classes"] == list("abcde")
    clip = torch.randn(1, 3, 11, 40, 33)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(clip), tiny(clip))


@pytest.mark.slow
def test_openvino_holds_the_same(tiny, tmp_path):
    openvino = pytest.importorskip("openvino")
    report = tubelet.export(tiny, tmp_path / "tiny.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.bin", "tiny.xml"]
    assert report.runtime == "OpenVINO" and all(check.relative < 1e-4 for check in report.checks)
    model = openvino.Core().read_model(tmp_path / "tiny.xml")
    assert json.loads(model.get_rt_info(["tubelet"]).astype(str))["classes"] == list("abcde")


@pytest.mark.slow
def test_a_real_clip_is_compared_too(tiny, tmp_path):
    video = tmp_path / "v.mp4"
    write_video(video, (torch.full((3, 48, 64), 8 * i, dtype=torch.uint8) for i in range(20)), 10)
    first = tubelet.export(tiny, tmp_path / "a.pt2", video).checks[0]
    assert (first.clip, first.size) == ("example", (1, 3, 8, 32, 32))
    clip = torch.randint(0, 256, (2, 3, 6, 30, 40), dtype=torch.uint8)
    first = tubelet.export(tiny, tmp_path / "b.pt2", clip).checks[0]
    assert (first.clip, first.size) == ("example", (2, 3, 6, 30, 40))


class Fixed(torch.nn.Module):
    """A network of someone else that takes one size alone, but for the batch."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 2, 3, padding=1)
        self.fc = torch.nn.Linear(2 * 4 * 8 * 8, 3)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


def test_a_network_of_someone_else_keeps_the_sizes_that_it_needs(tmp_path):
    report = tubelet.export(Fixed(), tmp_path / "fixed.pt2", torch.randn(1, 1, 4, 8, 8))
    assert [str(axis) for axis in report.inputs["clip"]] == ["batch", "1", "4", "8", "8"]
    assert [check.clip for check in report.checks] == ["example", "noise"]


class Turning(Fixed):
    """Answers something else each time."""

    def forward(self, x):
        return super().forward(x) + torch.rand(())


class Cancelling(torch.nn.Module):
    """Leaves of numbers what float32 rounds off."""

    def forward(self, x):
        x = x.sum((2, 3, 4))
        return (x + 5e4) - 5e4


def test_what_float32_leaves_open_is_no_difference():
    export = sys.modules["tubelet.export"]
    clip = torch.rand(1, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    limit = export._limit(Cancelling(), (clip,))
    own = (Cancelling()(clip) - clip.double().sum((2, 3, 4))).abs().max() / clip.double().sum((2, 3, 4)).abs().max()
    assert 1e-4 < limit < 1e-3 and limit == pytest.approx(2 * float(own), rel=1e-3)
    assert export._limit(torch.nn.Conv3d(2, 1, 1), (clip,)) == 1e-4


class Single(torch.nn.Module):
    """Goes to float32 itself, whatever it is in."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv3d(2, 1, 1)

    def forward(self, x):
        return self.conv(x.float())


def test_without_an_answer_in_float64_the_limit_is_the_usual_one():
    assert sys.modules["tubelet.export"]._limit(Single(), (torch.rand(1, 2, 3, 4, 5),)) == 1e-4


def test_other_answers_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"x\.pt2: not written: .*differ by .*limit is 0\.0001"):
        tubelet.export(Turning(), tmp_path / "x.pt2", torch.randn(1, 1, 4, 8, 8))
    assert not list(tmp_path.iterdir())


class Looking(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_the_layer_that_cannot_be_exported_is_named(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.Sequential(torch.nn.ReLU(), Looking()))
    with pytest.raises(ValueError, match=r"layer 1\.1 cannot be exported \("):
        tubelet.export(model, tmp_path / "new" / "x.pt2", torch.randn(1, 1, 2, 4, 4))
    assert not (tmp_path / "new").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_is_refused(tmp_path):
    script = torch.jit.script(torch.nn.Conv3d(1, 2, 1))
    for model, where in ((script, "the network"), (torch.nn.Sequential(torch.nn.ReLU(), script), "layer 1")):
        with pytest.raises(ValueError, match=f"^{where} is TorchScript: export the network that it was made of$"):
            tubelet.export(model, tmp_path / "x.pt2", torch.randn(1, 1, 2, 4, 4))


def test_mistakes_are_told_in_one_line(tiny, tmp_path, capsys):
    for path, message in (
        (tmp_path / "x.tflite", r"x\.tflite: ends in \.tflite; give a path ending in \.onnx, \.pt2, \.xml"),
        (tmp_path / "x", "ends in nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            tubelet.export(tiny, path)
    with pytest.raises(ValueError, match=r"example is \(3, 8, 32, 32\); give a clip \(B, C, T, H, W\)"):
        tubelet.export(tiny, tmp_path / "x.pt2", torch.zeros(3, 8, 32, 32))
    with pytest.raises(ValueError, match=r"^example is a tuple; give a tensor \(B, C, T, H, W\), the path of"):
        tubelet.export(tiny, tmp_path / "x.pt2", (torch.zeros(1, 3, 8, 32, 32), torch.zeros(1, 5)))
    with pytest.raises(ValueError, match="example holds nan or infinity"):
        tubelet.export(tiny, tmp_path / "x.pt2", torch.full((1, 3, 8, 32, 32), torch.nan))
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match=r"folder\.onnx: is a folder; give a file in it, such as .*model\.onnx$"):
        tubelet.export(tiny, tmp_path / "folder.onnx")
    (tmp_path / "file").touch()
    assert main(["export", str(tubelet.save(tiny, tmp_path / "m.safetensors")), str(tmp_path / "file" / "x.pt2")]) == 2
    assert capsys.readouterr().err.startswith(f"tubelet: {tmp_path / 'file'}")


@pytest.mark.slow
def test_the_command_prints_the_report(tiny, tmp_path, capsys):
    tubelet.save(tiny, tmp_path / "m.safetensors")
    assert main(["export", str(tmp_path / "m.safetensors"), str(tmp_path / "m.pt2")]) == 0
    assert "larger" in capsys.readouterr().out
    assert (tmp_path / "m.pt2").is_file()


def test_a_missing_package_is_named_with_its_pip_line(tmp_path):
    code = (
        "import sys, torch, tubelet; sys.modules['onnxruntime'] = None\n"
        "tubelet.export(tubelet.create('tiny'), 'x.onnx')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert 'install it with: pip install "tubelet[export]"' in done.stderr


class Small(torch.nn.Module):
    """One convolution and a pooling, after which a step of the last map is 4 frames and 8 pixels, and a head."""

    strides = ((2, 4, 4), (4, 8, 8))

    def __init__(self, head=None):
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 4, 3, (2, 4, 4), 1)
        self.pool = torch.nn.MaxPool3d(3, 2, 1)
        self.last = torch.nn.Conv3d(4, 4, 3, padding=1)
        self.head = head or tubelet.heads.Classify(4, 3)

    def forward(self, x, *boxes):
        return self.head(self.last(self.pool(self.conv(x))), *boxes)


def axes(report):
    return [str(axis) for axis in report.inputs["clip"]]


def test_a_last_map_of_one_place_leaves_the_sizes_free(tmp_path):
    torch.manual_seed(0)
    model = Small()
    report = tubelet.export(model, tmp_path / "x.onnx", torch.randn(1, 1, 2, 7, 8))
    assert axes(report) == ["batch", "1", "frames", "height", "width"]
    # a smaller clip, too, though its last map has one place and the graph was followed with more
    assert [check.clip for check in report.checks] == ["example", "noise", "larger", "smaller"]
    larger = next(check.size for check in report.checks if check.clip == "larger")
    assert all(n >= 2 * step + step for n, step in zip(larger[2:], model.strides[-1], strict=True))
    model.eval()
    for size in ((1, 1, 2, 7, 8), (2, 1, 4, 24, 17), (1, 1, 13, 8, 30)):
        clip = torch.randn(size)
        with torch.no_grad():
            np.testing.assert_allclose(run(tmp_path / "x.onnx", clip)[0], model(clip).numpy(), rtol=1e-4, atol=1e-6)


def test_free_axes_have_their_names(tmp_path):
    tubelet.export(torch.nn.Conv3d(1, 1, 3, padding=1), tmp_path / "x.onnx", torch.randn(1, 1, 9, 17, 18))
    graph = onnx.load(tmp_path / "x.onnx").graph
    for value in (*graph.input, *graph.output):
        sizes = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        assert sizes == ["batch", 1, "frames", "height", "width"]


def test_an_axis_of_one_size_is_declared_so(tmp_path):
    class Placed(torch.nn.Conv3d):
        def forward(self, x):
            y = super().forward(x)
            return y * torch.linspace(0, 1, y.shape[2]).view(-1, 1, 1)

    report = tubelet.export(Placed(1, 1, 3, padding=1), tmp_path / "x.onnx", torch.randn(1, 1, 8, 17, 18))
    assert axes(report) == ["batch", "1", "8", "height", "width"]
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, 8, "height", "width"]


def test_a_file_that_refuses_sizes_tells_their_limits(tmp_path):
    """torch.export has no range for a size that was divided twice: the limits are looked for."""
    report = tubelet.export(Small(), tmp_path / "x.pt2", torch.randn(1, 1, 3, 6, 7))
    assert axes(report) == ["batch", "1", "frames from 3 to 4", "height from 5 to 8", "width from 5 to 8"]
    module = torch.export.load(tmp_path / "x.pt2").module()
    module(torch.randn(2, 1, 4, 8, 8))
    for size in ((5, 8, 8), (4, 9, 8), (4, 8, 9), (2, 8, 8), (4, 4, 8)):
        with pytest.raises((AssertionError, RuntimeError)):
            module(torch.randn(2, 1, *size))


def test_a_map_below_the_window_of_a_head_has_limits(tmp_path):
    model = Small(tubelet.heads.Classify(4, 3, window=(1, 4, 4))).eval()
    report = tubelet.export(model, tmp_path / "x.pt2", torch.randn(1, 1, 8, 17, 17))
    # 25 pixels are the first to make 4 places
    assert axes(report)[2:] == ["frames from 5", "height from 9 to 24", "width from 9"]


def test_sizes_go_by_the_steps_that_a_network_wants(tmp_path):
    class Even(Small):
        def forward(self, x):
            if x.shape[2] % 4:
                raise ValueError("whole steps")
            return super().forward(x)

    report = tubelet.export(Even(), tmp_path / "x.pt2", torch.randn(1, 1, 8, 17, 17))
    assert axes(report)[2] == "frames from 8 by 4"
    assert {check.size[2] for check in report.checks} == {8, 12}


@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_frames_that_a_network_picks_must_be_there(ending, tmp_path):
    """An IndexError of the network is no error of the export, and sizes below it are not offered."""

    class Picking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.tensor([0, 2, 4]))
            self.conv = torch.nn.Conv3d(1, 2, 1)

        def forward(self, x):
            return self.conv(x[:, :, self.places]).mean((2, 3, 4))

    report = tubelet.export(Picking(), tmp_path / f"x{ending}", torch.randn(1, 1, 6, 16, 16))
    assert axes(report)[2:] == ["frames from 5", "height", "width"]
    assert [check.clip for check in report.checks] == ["example", "noise", "larger", "smaller"]


class Steps(torch.nn.Conv3d):
    """What changes from frame to frame: nothing, of one frame."""

    def forward(self, x):
        return super().forward(x).diff(dim=2)


class Signs(torch.nn.Conv3d):
    def forward(self, x):
        return super().forward(x).mean((2, 3, 4)) > 0


def test_answers_may_be_empty_at_some_size_or_of_bools(tmp_path):
    report = tubelet.export(Steps(1, 2, 3, padding=1), tmp_path / "x.onnx", torch.randn(2, 1, 6, 9, 9))
    assert axes(report)[2] == "frames from 3" and len(report.checks) == 4
    with pytest.raises(ValueError, match=r"answers on example \(1, 1, 1, 9, 9\) are empty: give a larger clip"):
        tubelet.export(Steps(1, 2, 3, padding=1), tmp_path / "y.onnx", torch.randn(1, 1, 1, 9, 9))
    report = tubelet.export(Signs(1, 2, 3, padding=1), tmp_path / "x.onnx", torch.randn(2, 1, 6, 9, 9))
    assert {check.largest for check in report.checks} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_a_detector_is_exported(ending, tmp_path):
    model = Small(tubelet.heads.Detect(4, 3, 8)).eval()
    clip = torch.randn(1, 1, 8, 24, 24)
    report = tubelet.export(model, tmp_path / f"x{ending}", clip)
    assert [check.clip for check in report.checks] == ["example", "noise", "larger", "smaller"]
    assert {name: str(axes[0]) for name, axes in report.inputs.items()} == {"clip": "batch", "boxes": "boxes"}


@pytest.mark.slow
def test_of_an_optimized_network_the_network_is_exported(tmp_path):
    model = Small().eval()
    clip = torch.randn(1, 1, 4, 16, 16)
    tubelet.export(tubelet.optimize(model, clip, seconds=0), tmp_path / "x.pt2", clip)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(tmp_path / "x.pt2").module()(clip), model(clip))


def test_strides_of_another_form_are_not_taken_for_ours(tmp_path):
    model = Small()
    model.strides = (2, 2)  # as MONAI's networks have them
    report = tubelet.export(model, tmp_path / "x.pt2", torch.randn(1, 1, 9, 17, 17))
    assert [check.clip for check in report.checks] == ["example", "noise", "larger", "smaller"]


def test_a_network_trains_on_after_it_was_exported(tmp_path):
    model = Small().train()
    model.conv.eval()
    tubelet.export(model, tmp_path / "x.pt2", torch.randn(1, 1, 9, 17, 17))
    assert model.training and model.head.training and not model.conv.training


def test_exports_of_several_threads_come_one_after_the_other(tmp_path):
    class Asking(Small):
        def forward(self, x):
            taken.append(pool.submit(ALONE.acquire, blocking=False).result())
            return super().forward(x)

    taken = []
    with ThreadPoolExecutor(1) as pool:
        tubelet.export(Asking(), tmp_path / "x.pt2", torch.randn(1, 1, 9, 17, 17))
    assert taken and not any(taken)


class Several(Fixed):
    """Answers with more than one tensor."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return self.kind(a=super().forward(x)) if self.kind is dict else (super().forward(x), x)


@pytest.mark.parametrize("kind", [dict, tuple])
def test_a_network_with_several_answers_is_refused(kind, tmp_path):
    with pytest.raises(ValueError, match=rf"^Several answers with a {kind.__name__}: wrap it in a network that"):
        tubelet.export(Several(kind), tmp_path / "x.pt2", torch.randn(1, 1, 4, 8, 8))


class Two(Fixed):
    def forward(self, x, y):
        return super().forward(x) + y


def test_a_network_of_two_inputs_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"^Two takes something else than a clip \(missing .*'y'\): wrap it in a network"
    ):
        tubelet.export(Two(), tmp_path / "x.pt2", torch.randn(1, 1, 4, 8, 8))


# Streams


def follow(path, frames, n):
    """A stream in onnxruntime, with nothing but what the file tells."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    lead = json.loads(session.get_modelmeta().custom_metadata_map["tubelet"])["lead"]
    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
    kept = {each.name: np.zeros(each.shape, kinds[each.type]) for each in session.get_inputs()[1:]}
    answers = []
    for chunk in frames.split(n, 2):
        answer, *after = session.run(None, {"frames": chunk.numpy(), **kept})
        kept = dict(zip(kept, after, strict=True))
        answers.append(torch.from_numpy(answer))
    return torch.cat(answers, 2)[:, :, lead:]


@pytest.mark.parametrize(
    "kind",
    [{}, *(pytest.param(kind, marks=pytest.mark.slow) for kind in ({"dense": True}, {"window": 3}))],
    ids=lambda kind: [*kind, "plain"][0],
)
def test_a_step_of_a_stream_is_a_graph(tiny, tmp_path, kind):
    stream = tubelet.Stream(tiny, **kind)
    report = tubelet.export(stream, tmp_path / "step.onnx", torch.zeros(2, 3, 8, 32, 32))
    assert all(check.relative < 1e-4 for check in report.checks)
    video = torch.randn(2, 3, 96, 32, 32)
    expected = stream(video)
    found = follow(tmp_path / "step.onnx", video, 8)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_chunks_that_do_not_fit_are_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"chunks of 3 frames do not give equally many answers each: .*multiple"):
        tubelet.export(tubelet.Stream(tiny), tmp_path / "x.pt2", torch.zeros(1, 3, 3, 16, 16))


def pooling():
    """Padded maxima of what may be negative, and averages that leave their padding out."""
    return torch.nn.Sequential(
        torch.nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0)),
        torch.nn.MaxPool3d((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        torch.nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0), count_include_pad=False),
        torch.nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0)),
        torch.nn.MaxPool3d((3, 1, 1), 1, (1, 0, 0)),
    ).eval()


def test_what_is_padded_at_the_start_is_padded_in_a_step(tmp_path):
    torch.manual_seed(0)
    stream = tubelet.Stream(pooling())
    tubelet.export(stream, tmp_path / "step.onnx", torch.zeros(1, 3, 4, 5, 5))
    video = torch.randn(1, 3, 32, 5, 5) - 3
    torch.testing.assert_close(follow(tmp_path / "step.onnx", video, 4), stream(video), rtol=1e-4, atol=1e-5)


# The zoo


def small(model):
    """A clip that leaves the last map two steps or so along each axis."""
    steps = model.strides[-1]
    sizes = [max(low, s + max(m, 2 * (s % 16))) for low, s, m in zip(model.least, steps, (2, 6, 10), strict=True)]
    sizes[0] += -sizes[0] % getattr(model, "alpha", 1)
    return torch.randn(1, model.spec.in_channels, *sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS.values(), *MORE])
def test_every_kind_of_network_is_exported(name, tmp_path):
    model = network(name)
    report = tubelet.export(model, tmp_path / "x.onnx", small(model))
    assert [check.clip for check in report.checks] == ["example", "noise", "larger", "smaller"]
    # the gates of this one, not trained, leave float32 1.5e-4 of the answers open on 49 x 53 x 51 voxels
    limits = [2e-4 if name == "residual_unet_se3d" else 1e-4 for check in report.checks]
    assert all(check.relative < limit for check, limit in zip(report.checks, limits, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("x3d_s", None), ("slowfast_r50", (1, 3, 32, 64, 64))])
def test_heads_with_a_window_leave_height_and_width_free(name, size, tmp_path):
    report = tubelet.export(network(name), tmp_path / "x.onnx", None if size is None else torch.randn(size))
    assert [check.clip for check in report.checks][-2:] == ["larger", "smaller"]
    frames, height, width = report.inputs["clip"][2:]
    assert frames.low == frames.high and all(axis.low < (axis.high or 10**6) for axis in (height, width))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["PerFrame", "TemporalTransformer", "Segment", "Detect", "Features"])
def test_every_head_is_exported(head, tmp_path):
    model = network("tiny")
    kind = getattr(tubelet.heads, head)
    arguments = {"Features": (), "Detect": (64, 3, 16)}.get(head, (64, 3))
    model.head = kind(*arguments).eval()
    report = tubelet.export(model, tmp_path / "x.onnx", torch.randn(1, 3, 8, 40, 48))
    assert len(report.checks) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMED)
def test_steps_of_the_networks_that_stream(name, tmp_path):
    model = network(name)
    size = (1, 3, model.strides[-1][0], *(max(48, low) for low in model.least[1:]))
    report = tubelet.export(tubelet.Stream(model), tmp_path / "step.onnx", torch.zeros(size))
    assert report.checks[0].relative < 1e-4
