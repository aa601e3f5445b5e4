"""Folders of frames and arrays, against Pillow and against files: every picture under its own number."""

import io
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

pytest.importorskip("av")

from tubelet.data import pictures
from tubelet.data.pictures import is_frames
from tubelet.data.video import Video, VideoError, write_video

CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "clips"


def gray(number: int, height: int = 12, width: int = 20) -> Image.Image:
    """A picture whose gray tells its number."""
    return Image.new("RGB", (width, height), (4 * number,) * 3)


def numbers_of(clip: torch.Tensor) -> list[int]:
    return [round(picture.float().mean().item() / 4) for picture in clip.unbind(1)]


def folder(path: Path, names: list[str], numbers: list[int] | None = None) -> Path:
    """A folder of gray pictures, written in a random order."""
    made = list(zip(names, numbers or range(len(names)), strict=True))
    random.Random(0).shuffle(made)
    for name, number in made:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        gray(number).save(path / name)
    return path


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """A picture (91, 121, 3) with edges, slopes and fine grain."""
    down, right = np.mgrid[:91, :121]
    waves = [np.sin(down / (5 + 4 * c)) * np.cos(right / (9 - 2 * c)) for c in range(3)]
    picture = 128 + 90 * np.stack(waves, -1) + np.random.default_rng(0).normal(0, 6, (91, 121, 3))
    picture[30:60, 40:80] = (220, 40, 60)
    return picture.clip(0, 255).astype(np.uint8)


NAMES = {
    "mmaction2": [f"img_{i:05d}.jpg" for i in range(1, 31)],
    "kenshohara": [f"image_{i:05d}.jpg" for i in range(1, 31)],
    "bare": [f"{i:06d}.jpg" for i in range(30)],
    "something-something v1": [f"{i:05d}.jpg" for i in range(1, 31)],
    "unpadded": [f"frame{i}.png" for i in range(30)],
    "outgrown padding": [f"f{i:01d}.bmp" for i in range(5, 35)],
    "charades": [f"001YG-{i:06d}.jpg" for i in range(1, 31)],
    "ava": [f"_-Z6wFjXtGQ_{i:06d}.jpg" for i in range(27001, 27031)],
    "capitals": [f"IMG{i:04d}.JPG" for i in range(100, 130)],
    "webp": [f"a b.c {i}.webp" for i in range(30)],
    "two spellings of a suffix": [f"img_{i:05d}.{'jpg' if i % 2 else 'JPG'}" for i in range(1, 31)],
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_frames_are_in_the_order_of_their_numbers(tmp_path, names):
    path = folder(tmp_path, names)
    for other in ("Thumbs.db", ".DS_Store", "n_frames.txt", "._img_00001.jpg"):
        (path / other).write_bytes(b"no picture")
    assert is_frames(path)
    with Video(path) as video:
        assert (video.num_frames, video.height, video.width, video.fps) == (30, 12, 20, 30)
        assert video.path == path and video.duration_s == 1
        assert numbers_of(video.frames(range(30))) == list(range(30))
        assert numbers_of(video.frames([29, 3, 3])) == [29, 3, 3]


def test_a_folder_gives_what_its_file_gives(tmp_path):
    """The frames of a video as png, with every way to ask for them."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (20, 3, 32, 48), generator=generator, dtype=torch.uint8)
    write_video(tmp_path / "a.mp4", frames, 25)
    with Video(tmp_path / "a.mp4") as file:
        for i, picture in enumerate(file.frames(range(20)).unbind(1)):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"img_{i + 1:05d}.png")
        (tmp_path / "img_00000.txt").touch()
        with Video(tmp_path, fps=25) as video:
            assert torch.equal(video.times, file.times) and video.duration_s == pytest.approx(file.duration_s)
            for how in ({}, {"resize": 20, "crop": (16, 24)}, {"box": (3, 5, 20, 24), "resize": (10, 12)}):
                assert torch.equal(video.frames([4, 19, 0], **how), file.frames([4, 19, 0], **how))
            assert torch.equal(video.frames_at([0.0, 0.41, 0.8]), file.frames_at([0.0, 0.41, 0.8]))
            for one, other in zip(video.clips([[0, 3], [2, 9], [1]]), file.clips([[0, 3], [2, 9], [1]]), strict=True):
                assert torch.equal(one, other)
            with pytest.raises(ValueError, match="frame 20 asked for; the video has frames 0 to 19"):
                video.frames([20])


FORMATS = {
    "png": ("RGB", "a0.png", {}),
    "png gray": ("L", "a0.png", {}),
    "png of a palette": ("P", "a0.png", {}),
    "png with alpha": ("RGBA", "a0.png", {}),
    "png of two colours": ("1", "a0.png", {}),
    "bmp": ("RGB", "a0.bmp", {}),
    "webp lossless": ("RGB", "a0.webp", {"lossless": True}),
    "jpg": ("RGB", "a0.jpg", {"quality": 90, "subsampling": 0}),
    "jpg, half the colour": ("RGB", "a0.jpg", {"quality": 75}),
    "jpg progressive": ("RGB", "a0.jpeg", {"quality": 90, "subsampling": 0, "progressive": True}),
    "jpg gray": ("L", "a0.jpg", {"quality": 90}),
    "png called jpg": ("RGB", "a0.jpg", {"format": "png"}),
    "webp": ("RGB", "a0.webp", {"quality": 90}),
}
# Greatest difference in a value, and the mean. Half the colour is spread by repetition here, smoothly in Pillow, which
# shows at the edges of a colour, and not in the brightness.
BOUNDS = {
    "jpg": (3, 0.1),
    "jpg progressive": (3, 0.1),
    "jpg gray": (1, 0.1),
    "jpg, half the colour": (72, 4),
    "webp": (72, 4),
}
BRIGHTNESS = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("name", FORMATS)
def test_pixels_are_those_of_pillow(tmp_path, scene, name):
    mode, file, options = FORMATS[name]
    image = Image.fromarray(scene)
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(scene[..., 0]))
    image.save(tmp_path / file, **options)
    theirs = np.asarray(Image.open(tmp_path / file).convert("RGB")).astype(int)
    with Video(tmp_path) as video:
        ours = video.frames([0])[:, 0].permute(1, 2, 0).numpy()
    assert ours.shape == (91, 121, 3) and ours.dtype == np.uint8
    difference = np.abs(ours - theirs)
    most, mean = BOUNDS.get(name, (0, 0))
    assert difference.max() <= most and difference.mean() <= mean
    assert np.abs((ours - theirs) @ BRIGHTNESS).mean() < 1.5
    if mode in ("L", "1"):
        assert (ours == ours[..., :1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_pictures_come_upright(tmp_path, orientation, suffix):
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a0.{suffix}"
    Image.fromarray(corner).save(path, exif=exif)
    theirs = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    for source in (tmp_path, path):
        with Video(source) as video:
            assert (video.height, video.width) == theirs.shape[:2]
            ours = video.frames([0])[:, 0].permute(1, 2, 0).numpy().astype(int)
        assert np.abs(ours - theirs).max() <= 8


@pytest.mark.parametrize("file", ["a0.jpg", "a0.png", "a0.bmp", "a0.webp"])
def test_a_picture_cut_short_is_an_error(tmp_path, scene, file):
    path = tmp_path / file
    Image.fromarray(scene[:, :120]).save(path)  # a bmp's rows are padded to 4 bytes, which may be missing
    whole = path.read_bytes()
    for length in (2, 30, 200, len(whole) // 2, len(whole) - 300, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(VideoError, match=rf"{file}: (the picture is (damaged or )?cut short|not a jpg)"):
            Video(tmp_path).frames([0])
    path.write_bytes(whole)
    assert Video(tmp_path).frames([0]).shape == (3, 1, 91, 120)


def test_a_damaged_png_is_an_error(tmp_path, scene):
    Image.fromarray(scene).save(tmp_path / "a0.png")
    data = bytearray((tmp_path / "a0.png").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a0.png").write_bytes(data)
    with pytest.raises(VideoError, match=r"a0\.png: the picture is damaged"):
        Video(tmp_path).frames([0])


def test_only_the_wanted_pictures_are_read(tmp_path):
    path = folder(tmp_path, [f"img_{i:05d}.jpg" for i in range(1, 31)])
    for number in range(1, 31):
        if number not in (4, 9):
            (path / f"img_{number:05d}.jpg").write_bytes(b"")
    with Video(path) as video:
        assert numbers_of(video.frames([8, 3])) == [8, 3]
        with pytest.raises(VideoError, match=r"img_00005\.jpg: the file is empty \(0 bytes\)"):
            video.frames([3, 4])
        (path / "img_00006.jpg").unlink()
        with pytest.raises(VideoError, match=r"img_00006\.jpg: No such file"):
            video.frames([5])
        (path / "img_00007.jpg").write_text("no picture")
        with pytest.raises(VideoError, match=r"img_00007\.jpg: not a jpg, png, bmp or webp picture"):
            video.frames([6])


def test_a_folder_is_listed_once(tmp_path, monkeypatch):
    folder(tmp_path, [f"{i}.png" for i in range(20)])
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(pictures.os, "scandir", lambda path: listed.append(path) or scandir(path))
    with Video(tmp_path) as video:
        video.frames([0, 19])
    assert listed == [tmp_path]


WRONG = {
    "a number is missing": (["img_1.jpg", "img_2.jpg", "img_4.jpg"], r"picture 3 is missing, between img_2.* img_4"),
    "a number is there twice": (["a1.jpg", "a2.jpg", "a02.jpg"], r"a02\.jpg and a2\.jpg have the same number"),
    "two sequences": (["img_1.jpg", "img_2.jpg", "frame1.jpg"], r"(frame|img_)1\.jpg and (frame|img_)1\.jpg are not"),
    "two formats": (["a1.jpg", "a2.jpg", "a3.png"], r"a1\.jpg and a3\.png are not of one|a3\.png and a1"),
    "a picture without a number": (["a1.jpg", "a2.jpg", "cover.jpg"], r"a1\.jpg and cover\.jpg are not of one"),
    "no numbers": (["one.jpg", "two.jpg"], "a directory without frames, which are numbered pictures"),
    "no pictures": ([], "a directory without frames"),
    "flow in one direction more": (
        ["flow_x_1.jpg", "flow_x_2.jpg", "flow_y_1.jpg"],
        r"2 pictures like flow_x_1\.jpg and 1 like flow_y_1",
    ),
    "flow and a picture without a number": (["flow_x_1.jpg", "flow_y_1.jpg", "a.jpg"], r"flow_x_1\.jpg and a\.jpg are"),
    "one direction of flow is empty": (["u/1.jpg", "v/one.jpg"], r"v: a directory without frames"),
}  # fmt: skip


@pytest.mark.parametrize("reason", WRONG)
def test_a_folder_that_is_no_video(tmp_path, reason):
    names, says = WRONG[reason]
    with pytest.raises(VideoError, match=says) as caught:
        Video(folder(tmp_path, names))
    assert str(caught.value).startswith(str(tmp_path))


def test_pictures_of_several_sizes(tmp_path):
    path = folder(tmp_path, ["a1.png", "a2.png", "a3.png"])
    gray(1, 10, 20).save(path / "a2.png")
    with Video(path) as video:
        assert numbers_of(video.frames([0, 2])) == [0, 2]
        with pytest.raises(VideoError, match=r"a2\.png: 10x20 where other frames of the folder are 12x20"):
            video.frames([0, 1])


@pytest.mark.parametrize(
    "names",
    [
        ("flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg"),
        ("x_{:05d}.jpg", "y_{:05d}.jpg"),
        ("u/frame{:06d}.jpg", "v/frame{:06d}.jpg"),
        ("x/{}.png", "y/{}.png"),
    ],
)
def test_optical_flow_has_two_channels(tmp_path, names):
    planes = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 24), np.uint8)
    theirs = np.empty_like(planes)
    for direction, name in enumerate(names):
        for number in range(12):
            path = tmp_path / name.format(number + 1)
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(planes[direction, number]).save(path)
            theirs[direction, number] = np.asarray(Image.open(path))
    assert is_frames(tmp_path)
    with Video(tmp_path) as video:
        ours = video.frames(range(12))
        assert ours.shape == (2, 12, 16, 24) and (video.height, video.width) == (16, 24)
        assert np.abs(ours.numpy().astype(int) - theirs).max() <= 1
        assert video.frames([3], resize=8, crop=(8, 10)).shape == (2, 1, 8, 10)


def test_pictures_beside_their_flow_are_meant(tmp_path):
    names = [f"{kind}_{i:05d}.jpg" for kind in ("img", "flow_x", "flow_y") for i in range(1, 6)]
    path = folder(tmp_path, names, [*range(5), *[60] * 10])
    with Video(path) as video:
        assert numbers_of(video.frames(range(5))) == list(range(5))


def test_a_rate_for_what_has_no_times(tmp_path):
    folder(tmp_path / "frames", [f"{i}.png" for i in range(10)])
    with Video(tmp_path / "frames", fps=12.5) as video:
        assert video.fps == 12.5 and video.times[3].item() == 0.24 and video.duration_s == 0.8
        assert numbers_of(video.frames_at([0, 0.4, 0.8])) == [0, 5, 9]
    write_video(tmp_path / "a.mp4", torch.zeros(5, 3, 16, 16, dtype=torch.uint8), 25)
    with pytest.raises(ValueError, match=r"a\.mp4: a file has times of its own; fps 25 is for"):
        Video(tmp_path / "a.mp4", fps=25)
    with pytest.raises(VideoError, match="no such file"):
        Video(tmp_path / "gone.mp4", fps=25)
    for source in (tmp_path / "frames", np.zeros((3, 4, 8, 8), np.uint8)):
        with pytest.raises(ValueError, match="fps 0; it must be above 0"):
            Video(source, fps=0)


def test_which_folders_are_frames(tmp_path):
    def made(name: str, *files: str) -> Path:
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
        return tmp_path / name

    frames = [f"img_{i:05d}.jpg" for i in range(1, 9)]
    assert is_frames(made("frames", *frames, "n_frames", "Thumbs.db"))
    assert is_frames(made("flow", *(f"{way}/{i}.png" for way in "uv" for i in range(3))))
    (made("videos", "a.mp4", "b.mp4") / "self.mp4").symlink_to("self.mp4")
    assert not is_frames(tmp_path / "videos")
    assert not is_frames(made("videos and their thumbnails", "v_1.mp4", "v_1.jpg", "v_2.mp4", "v_2.jpg"))
    assert not is_frames(made("folders", *(f"{name}/{frame}" for name in ("a", "b") for frame in frames)))
    assert not is_frames(made("classes called u and v", "u/a.mp4", "v/b.mp4"))
    assert not is_frames(made("photos", "one.jpg", "two.jpg"))
    made("animated", "1.webp", "2.webp")
    for i in (1, 2):
        gray(0).save(tmp_path / "animated" / f"{i}.webp", save_all=True, append_images=[gray(9)], duration=40)
    assert not is_frames(tmp_path / "animated")
    assert not is_frames(tmp_path / "gone")
    assert not is_frames(tmp_path / "frames" / "img_00001.jpg")


ARRAY = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 32), np.uint8)  # (C, T, H, W)


@pytest.mark.parametrize(
    "source",
    [ARRAY, ARRAY.transpose(1, 2, 3, 0), torch.from_numpy(ARRAY), torch.from_numpy(ARRAY).permute(1, 2, 3, 0)],
    ids=["array", "array, channels last", "tensor", "tensor, channels last"],
)
def test_arrays(tmp_path, source):
    np.save(tmp_path / "a.npy", np.asarray(source))
    for given in (source, tmp_path / "a.npy"):
        with Video(given, fps=25) as video:
            assert (video.num_frames, video.height, video.width) == (20, 24, 32)
            assert video.fps == 25 and video.duration_s == 0.8
            assert str(video.path) == ("array" if given is source else str(tmp_path / "a.npy"))
            assert np.array_equal(video.frames([3, 19, 3]), ARRAY[:, [3, 19, 3]])
            assert np.array_equal(video.frames([3], box=(2, 3, 10, 12)), ARRAY[:, [3], 2:12, 3:15])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_arrays_of_other_channels(channels):
    array = np.resize(ARRAY, (channels, 20, 24, 32))
    assert np.array_equal(Video(array).frames([5, 6]), array[:, 5:7])


def test_an_array_on_disk_is_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    assert isinstance(pictures.open_array(tmp_path / "a.npy")._frames, np.memmap)


def npy(*, allow_pickle: bool = False, cut: int = 0, array=ARRAY) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()[: len(file.getvalue()) - cut]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an array"),
        (b"hello", "not an array"),
        (npy(cut=100), "not an array"),
        (npy(array=np.array([{"a": 1}], object), allow_pickle=True), "not an array"),
        (npy(array=ARRAY.astype(np.float32)), r"\(3, 20, 24, 32\) of float32; give \(C, T, H, W\)"),
        (None, "No such file"),
    ],
)
def test_files_that_are_no_arrays(tmp_path, data, says):
    if data is not None:
        (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(VideoError, match=rf"a\.npy: .*{says}|a\.npy: {says}"):
        Video(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((3, 8, 16, 16), np.float32, r"array: \(3, 8, 16, 16\) of float32; give \(C, T, H, W\) or"),
        ((8, 16, 16), np.uint8, "give"),
        ((3, 0, 16, 16), np.uint8, "give"),
        ((3, 16, 16, 3), np.uint8, r"\(3, 16, 16, 3\) of uint8 may be \(C, T, H, W\) or \(T, H, W, C\)"),
        ((16, 3, 24, 24), np.uint8, r"\(16, 3, 24, 24\) of uint8 is neither of \(C, T, H, W\)"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_videos(shape, dtype, says):
    for array in (np.zeros(shape, dtype), torch.from_numpy(np.zeros(shape, dtype))):
        with pytest.raises(VideoError, match=says):
            Video(array)


def test_a_tensor_that_numpy_does_not_know():
    with pytest.raises(VideoError, match="of bfloat16; give"):
        Video(torch.zeros(3, 4, 8, 8, dtype=torch.bfloat16))


def test_frames_of_a_real_video(tmp_path):
    """As the field does it: a clip to jpg by Pillow. The colours come back within what jpg loses."""
    path = CLIPS / "h264_long_gop.mp4"
    if not path.is_file():
        pytest.skip(f"needs {path}, real data that the project does not ship")
    with Video(path) as file:
        clip = file.frames(range(0, 200, 20))
        for i, picture in enumerate(clip.unbind(1), start=1):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / f"img_{i:05d}.jpg", quality=95)
    with Video(tmp_path) as video:
        ours = video.frames(range(10))
        theirs = np.stack([np.asarray(Image.open(tmp_path / f"img_{i:05d}.jpg")) for i in range(1, 11)])
        theirs = torch.from_numpy(theirs).permute(3, 0, 1, 2)
        assert (ours.float() - theirs.float()).abs().mean() < 1.5
        assert (ours.float() - clip.float()).abs().mean() < 4
