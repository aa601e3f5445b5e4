import pytest

from tubelet.data.layouts import open_data
from tubelet.data.sample import Sample, Span

VIDEOS = {
    "breakfast": {
        "P03_cam01_P03_cereals": "BreakfastII_15fps_qvga_sync/P03/cam01/P03_cereals.avi",
        "P03_webcam02_P03_cereals": "BreakfastII_15fps_qvga_sync/P03/webcam02/P03_cereals.avi",
        "P04_stereo01_P04_cereals": "BreakfastII_15fps_qvga_sync/P04/stereo/P04_cereals_ch1.avi",
        "P05_cam01_P05_milk": "BreakfastII_15fps_qvga_sync/P05/cam01/P05_milk.avi",
    },
    "50salads": {f"rgb-{name}": f"rgb/rgb-{name}.avi" for name in ("01-1", "01-2", "02-1", "03-1")},
    "gtea": {name: f"Videos/{name}.mp4" for name in ("S1_Cheese_C1", "S1_Tea_C1", "S2_Cheese_C1", "S3_Pealate_C1")},
}
GROUPS = {"breakfast": ("P03", "P04", "P05"), "50salads": ("01", "02", "03"), "gtea": ("S1", "S2", "S3")}


@pytest.fixture(params=VIDEOS)
def kind(request):
    return request.param


@pytest.fixture
def framewise(kind, write, touch):
    names = list(VIDEOS[kind])
    for name in names:
        write(f"groundTruth/{name}.txt", "SIL", "SIL", "take_bowl", "pour_milk", "pour_milk", "SIL")
    write("mapping.txt", "0 SIL", "1 pour_milk", "2 take_bowl", "3 unused")
    for fold in (1, 2):
        test = names[3:] if fold == 1 else names[:2]
        write(f"splits/test.split{fold}.bundle", *(f"{name}.txt" for name in test))
        write(f"splits/train.split{fold}.bundle", *(f"{name}.txt" for name in names if name not in test))
    touch("features/x.npy")
    return touch(*VIDEOS[kind].values())


def test_every_frame_has_a_class(framewise, kind):
    data = open_data(framewise)
    assert data.layout == "frame labels (groundTruth, fold 1)"
    assert (data.task, data.classes, data.missing) == ("frames", ("SIL", "pour_milk", "take_bowl", "unused"), 0)
    path = next(iter(VIDEOS[kind].values()))
    spans = (Span(0, 2, 0), Span(2, 3, 2), Span(3, 5, 1), Span(5, 6, 0))
    assert data.splits["train"][0] == Sample(framewise / path, spans, group=GROUPS[kind][0])
    assert [sample.path for sample in data.splits["train"]] == [
        framewise / each for each in list(VIDEOS[kind].values())[:3]
    ]
    assert [sample.path for sample in data.splits["val"]] == [framewise / list(VIDEOS[kind].values())[3]]


def test_folds(framewise, kind):
    data = open_data(framewise, fold=2)
    assert {sample.group for sample in data.splits["val"]} == {GROUPS[kind][0]}
    assert {sample.group for sample in data.splits["train"]} == set(GROUPS[kind][1:])
    with pytest.raises(ValueError, match=r"splits: no fold 5; there is 1, 2"):
        open_data(framewise, fold=5)


def test_without_splits_persons_stay_together(framewise):
    for file in (framewise / "splits").iterdir():
        file.unlink()
    (framewise / "splits").rmdir()
    (framewise / "mapping.txt").unlink()
    data = open_data(framewise)
    assert data.classes == ("SIL", "pour_milk", "take_bowl")
    assert {sample.group for sample in data.splits["train"]}.isdisjoint(sample.group for sample in data.splits["val"])
    assert data.splits["val"]


def test_wrong_files(framewise, kind, write):
    name = next(iter(VIDEOS[kind]))
    write(f"groundTruth/{name}.txt", "SIL", "dance")
    with pytest.raises(ValueError, match=rf"{name}\.txt, row 2 \(dance\): no such class in mapping\.txt"):
        open_data(framewise)
    write(f"groundTruth/{name}.txt", "SIL", "", "SIL", "")  # a line that is left out moves all that follow
    with pytest.raises(ValueError, match=rf"{name}\.txt, row 2 \(\): no such class"):
        open_data(framewise)
    (framewise / f"groundTruth/{name}.txt").unlink()
    with pytest.raises(ValueError, match=rf"no groundTruth/{name}\.txt, which fold 1 names"):
        open_data(framewise)
