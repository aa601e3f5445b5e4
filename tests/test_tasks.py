"""Tasks: each is trained from its own targets, saved with its head, and measured by its own figure."""

import pytest
import torch

import tubelet
from tubelet import feed, heads, tasks
from tubelet.data import motion
from tubelet.data.augment import Augment
from tubelet.data.mixing import Mixing
from tubelet.data.sample import Actor, Sample, Span, VideoData
from tubelet.data.video import write_video

NAMES = ("left", "right", "up")
SPANS = {0: (Span(0, 6, 0), Span(6, 12, 1)), 1: (Span(2, 12, 2),)}
OVERLAPPING = {0: (Span(0, 8, 0), Span(4, 12, 1)), 1: (Span(2, 12, 2),)}
ACTORS = {0: (Actor(0.1, 0.1, 0.6, 0.9, (0, 2)), Actor(0.5, 0.2, 0.9, 0.8, (1,))), 1: ()}
TARGETS = {
    "classify": {0: 0, 1: 2},
    "multilabel": {0: (0, 2), 1: (1,)},
    "frames": SPANS,
    "frames that overlap": OVERLAPPING,
    "detect": ACTORS,
}
FIGURES = {
    "classify": "val_top1",
    "multilabel": "val_map",
    "frames": "val_frame_accuracy",
    "frames that overlap": "val_map",
    "detect": "val_map",
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for i in range(6):
        clip = motion.draw([NAMES[i % 2]], 12, torch.Generator().manual_seed(i))
        write_video(root / f"{i}.mp4", clip.unbind(1), 25.0)
    return sorted(root.iterdir())


def data_of(kind, videos):
    moment = 6 if kind == "detect" else None
    samples = [Sample(path, TARGETS[kind][i % 2], moment=moment) for i, path in enumerate(videos)]
    return VideoData(NAMES, {"train": samples[:4], "val": samples[4:]}, task=kind.split()[0])


@pytest.mark.parametrize("kind", TARGETS)
def test_a_task_is_trained_and_saved(kind, videos, tmp_path, monkeypatch):
    data = data_of(kind, videos)
    monkeypatch.setattr(feed, "open_data", lambda *_, **__: data)
    run = tubelet.train(
        "videos", task=data.task, model="tiny_3d", epochs=2, batch_size=2, num_frames=4, frame_stride=1, crop=32,
        workers=0, out=tmp_path / "run",
    )  # fmt: skip
    assert run.figure == FIGURES[kind] and run.figure in run.history[-1]
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in run.history)
    model = run.load()
    clip = torch.rand(1, 3, 4, 32, 32)
    if kind == "detect":
        assert isinstance(model.head, heads.Detect)
        assert model(clip, torch.tensor([[0, 2.0, 2, 20, 30], [0, 5, 5, 31, 31]])).shape == (2, 3)
    else:
        assert model(clip).shape == ((1, 3, 1) if data.task == "frames" else (1, 3))
        sums = tubelet.predict(run.out, videos[0]).scores.sum(1)  # sigmoids, or a softmax
        assert model.spec.is_multilabel == (kind in ("multilabel", "frames that overlap"))
        assert model.spec.is_multilabel != torch.allclose(sums, torch.ones(len(sums)))
        assert len(sums) == (12 if data.task == "frames" else 5)


def test_what_is_learned_is_what_the_targets_say(videos):
    """The loss of the right answer is lower than that of any other, for each task."""
    right = {
        "classify": (torch.tensor([[9.0, 0, 0]]), torch.tensor([0])),
        "multilabel": (torch.tensor([[9.0, -9, 9]]), torch.tensor([[1.0, 0, 1]])),
        "frames": (torch.tensor([[[9.0, 0], [0, 9], [0, 0]]]), torch.tensor([[0, 1]])),
        "frames that overlap": (
            torch.tensor([[[9.0, -9], [9, 9], [-9, -9]]]),
            torch.tensor([[[1.0, 0], [1, 1], [0, 0]]]),
        ),
    }  # fmt: skip
    for kind, (logits, target) in right.items():
        task = tasks.task_of(data_of(kind, videos), "cross_entropy", 0.0, "none", torch.ones(3))
        assert task.loss(logits, target) < 0.01
        assert task.loss(-logits, target) > 1
        measures = task.measures()
        task.update(measures, logits, [target])
        assert task.figures(measures.compute())[FIGURES[kind]] == 1


def test_where_most_are_of_one_class_the_best_epoch_is_that_of_the_ranks(videos):
    """Scores of class 0: 0.91, 0.79, 0.67, in order; of class 1: 0.05, 0.11, 0.09, where one of two pairs is."""
    logits, target = torch.tensor([[3.0, 0, 0], [2, 0, 0], [1, -1, 0]]), torch.tensor([0, 0, 1])
    for counts, best in ((torch.tensor([5, 2, 1]), "val_top1"), (torch.tensor([6, 1, 1]), "val_auc")):
        task = tasks.task_of(data_of("classify", videos), "cross_entropy", 0.0, "none", counts)
        measures = task.measures()
        for part in ([0], [1, 2]):
            task.update(measures, logits[part], [target[part]])
        figures = task.figures(measures.compute())
        assert task.best == best and figures["val_top1"] == pytest.approx(2 / 3)
        assert figures.get("val_auc") == (pytest.approx((1 + 1 / 2) / 2) if best == "val_auc" else None)
        assert task.quality({**figures, "val_loss": 1.0}) == (figures[best], -1.0)


def test_spans_of_the_background_do_not_count(videos):
    """Background between two spans is missed: no mistake, but of a class of another name one in three."""
    logits, target = torch.eye(3)[:, torch.tensor([1, 1, 1, 1, 2])][None], torch.tensor([[1, 1, 0, 0, 2]])
    for name, edit in (("background", 1.0), ("a", 2 / 3)):
        task = tasks.task_of(
            VideoData((name, "b", "c"), {}, task="frames"), "cross_entropy", 0.0, "none", torch.ones(3)
        )
        measures = task.measures()
        task.update(measures, logits, [target])
        assert task.figures(measures.compute())["val_edit"] == pytest.approx(edit)


@pytest.mark.parametrize("kind", ["frames", "detect"])
def test_uneven_clips_weigh_the_same_however_they_are_dealt_out(kind, videos, tmp_path, monkeypatch):
    """Clips with few and many labels, or boxes: two parts of a step have its loss, and that of the validation."""
    data = data_of(kind, videos)
    few = {"frames": (Span(0, 2, 0),), "detect": ACTORS[0]}[kind]
    many = {"frames": SPANS[0], "detect": 3 * ACTORS[0]}[kind]
    splits = {
        part: [Sample(each.path, (few, many)[i % 2], moment=each.moment) for i, each in enumerate(samples)]
        for part, samples in data.splits.items()
    }
    monkeypatch.setattr(feed, "open_data", lambda *_, **__: VideoData(NAMES, splits, task=data.task))
    histories = []
    for accumulate in (1, 2):
        run = tubelet.train(
            "videos", model="tiny_3d", epochs=3, batch_size=2, accumulate=accumulate, num_frames=12, frame_stride=1,
            resize="none", crop=56, augment=Augment(), dropout=0.0, is_norm_frozen=True, workers=0,
            out=tmp_path / str(accumulate),
        )  # fmt: skip
        histories.append([(row["train_loss"], row["val_loss"]) for row in run.history])
    assert torch.allclose(torch.tensor(histories[0]), torch.tensor(histories[1]), rtol=1e-5)
    assert histories[0][0] != histories[0][-1]


def test_counts_of_classes_that_nobody_takes_are_not_asked_for():
    data = VideoData(("background", "ball"), {}, task="segment")
    for loss, weights in (("logit_adjusted", "none"), ("dice_ce", "balanced")):
        with pytest.raises(ValueError, match="voxels are not counted: leave them out"):
            tasks.task_of(data, loss, 0.0, weights, torch.ones(2))


def test_a_detector_is_given_boxes_for_its_statistics(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "open_data", lambda *_, **__: data_of("detect", videos))
    options = {"model": "tiny_3d", "epochs": 1, "num_frames": 4, "frame_stride": 1, "crop": 32, "workers": 0}
    run = tubelet.train("videos", **options, precise_norms=1, batch_size=4, out=tmp_path / "run")
    assert run.history[-1]["val_map"] >= 0
    with pytest.raises(ValueError, match="memory auto does not know how many boxes"):
        tubelet.train("videos", **options, memory="auto", out=tmp_path / "auto")


def test_labels_of_a_coarser_network_are_stretched_over_its_frames(videos):
    task = tasks.task_of(data_of("frames", videos), "cross_entropy", 0.0, "none", torch.ones(3))
    logits = task.answer(lambda x: torch.arange(6.0).reshape(1, 3, 2), torch.rand(1), [torch.zeros(1, 8)])
    assert logits.shape == (1, 3, 8) and logits[0, 0, 0] == 0 and logits[0, 0, -1] == 1


def test_a_network_that_tells_no_width_is_refused():
    model = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1))
    model.head = torch.nn.Identity()
    with pytest.raises(ValueError, match="tells no channels and strides"):
        tasks.with_head(model, "frames")


def test_what_belongs_to_frames_does_not_mix(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "open_data", lambda *_, **__: data_of("frames", videos))
    with pytest.raises(ValueError, match="mixing is for one answer a clip, not for task frames"):
        tubelet.train("videos", task="frames", model="tiny_3d", mixing=Mixing(mixup=0.2), out=tmp_path / "run")


def test_whether_classes_overlap_is_asked_of_all_parts(videos):
    """Training, which sees an overlap in its own part, and an evaluation of the other have the same measures."""
    splits = {"train": [Sample(videos[0], OVERLAPPING[0])], "val": [Sample(videos[1], SPANS[0])]}
    found = VideoData(NAMES, splits, task="frames")
    spec = tubelet.ClipSpec(classes=("up", "right", "left"))
    ordered = tubelet.evaluate.__globals__["_in_order_of"](spec, found, "videos", ["val"])
    assert tasks.is_multilabel(ordered) and ordered.splits["val"][0].target[0].target == 2


def test_classes_of_frames_count_by_how_long_they_are_seen(videos):
    data = VideoData(NAMES, {"train": [Sample(videos[0], SPANS[0]), Sample(videos[1], SPANS[1])]}, task="frames")
    assert tubelet.train.__globals__["_class_seconds"](data).tolist() == [6, 6, 10]
