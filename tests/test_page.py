import base64
import hashlib
import html
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from tubelet.page import Section, write_report


class Page(HTMLParser):
    """Tags with their attributes, and the text of the table cells, row by row."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.cells, self._cell = [], [], None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
            self._cell = tag

    def handle_endtag(self, tag):
        if tag == self._cell:
            self._cell = None

    def handle_data(self, data):
        if self._cell:
            self.cells[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return path


def test_pictures_and_videos_are_embedded_exactly(tmp_path, picture):
    video = tmp_path / "video.MP4"
    video.write_bytes(bytes(range(256)) * 3)
    section = Section("Clips", pictures=[(picture, "a <b> picture"), (video, 'a "video"')])
    page = Page(write_report(tmp_path / "r.html", "Run", [section]))
    (image,), (film,) = page.all("img"), page.all("video")
    for attributes, path, kind in ((image, picture, "image/png"), (film, video, "video/mp4")):
        head, data = attributes["src"].split(",")
        assert head == f"data:{kind};base64"
        assert base64.b64decode(data) == path.read_bytes()
    assert image["alt"] == "a <b> picture"
    assert film["aria-label"] == 'a "video"'
    assert "controls" in film


def test_nothing_is_asked_of_the_network(tmp_path, picture):
    sections = [Section(f"part {i}", "text", [(picture, "caption")], [{"a": 1}]) for i in range(4)]
    path = write_report(tmp_path / "r.html", "Run", sections)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|<script [^>]|<link", text)
    (policy,) = (meta["content"] for meta in Page(path).all("meta") if "http-equiv" in meta)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{own}'" in policy
    for _, attributes in Page(path).tags:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))


def test_everything_is_escaped(tmp_path, picture):
    evil = "<b>&\"'"
    section = Section(evil, evil, [(picture, evil)], [{evil: evil}])
    path = write_report(tmp_path / "r.html", evil, [section], summary=evil)
    page = Page(path)
    assert not page.all("b")
    assert page.cells == [[evil], [evil]]
    assert page.all("img")[0]["alt"] == evil


def test_headings_in_order_and_contents_from_four_sections(tmp_path):
    few = Page(write_report(tmp_path / "few.html", "Run", [Section(str(i)) for i in range(3)]))
    many = Page(write_report(tmp_path / "many.html", "Run", [Section(str(i)) for i in range(4)]))
    assert [tag for tag, _ in many.tags if tag in ("h1", "h2", "h3")] == ["h1"] + ["h2"] * 4
    assert not few.all("nav")
    targets = {attributes["id"] for attributes in many.all("section")}
    assert [link["href"].removeprefix("#") for link in many.all("a")] == sorted(targets)
    assert many.all("html")[0]["lang"] == "en"


def test_blank_lines_part_paragraphs(tmp_path):
    page = Page(write_report(tmp_path / "r.html", "Run", [Section("a", "one\ntwo\n\nthree\n"), Section("b")]))
    assert len(page.all("p")) == 2


def test_tables_align_numbers_and_allow_gaps(tmp_path):
    rows = [
        {"class": "left", "clips": 1300, "recall": 0.5, "is_seen": True},
        {"class": 7, "clips": None, "recall": 0.12345, "is_seen": False, "lr": 1e-5},
    ]
    page = Page(write_report(tmp_path / "r.html", "Run", [Section("a", table=rows)]))
    assert page.cells == [
        ["class", "clips", "recall", "is_seen", "lr"],
        ["left", "1,300", "0.5000", "yes", ""],
        ["7", "", "0.1235", "no", "1e-05"],
    ]
    assert [head.get("class") for head in page.all("th")] == [None, "number", "number", None, "number"]
    assert [cell.get("class") for cell in page.all("td")] == [None, "number", "number", None, "number"] * 2


def test_what_is_no_number_is_a_dash(tmp_path):
    rows = [{"recall": 0.5}, {"recall": float("nan")}]
    page = Page(write_report(tmp_path / "r.html", "Run", [Section("a", table=rows)]))
    assert page.cells == [["recall"], ["0.5"], ["-"]]


def test_flat_and_detailed_pictures_take_the_whole_width(tmp_path, picture):
    flat, detailed = tmp_path / "flat.png", tmp_path / "detailed.png"
    Image.new("1", (300, 60)).save(flat)
    Image.new("1", (1600, 1500)).save(detailed)
    section = Section("a", pictures=[(picture, ""), (flat, ""), (detailed, "")])
    page = Page(write_report(tmp_path / "r.html", "Run", [section]))
    assert [figure.get("class") for figure in page.all("figure")] == [None, "wide", "wide"]


def test_what_is_detailed_can_be_scrolled_on_a_telephone(tmp_path, picture):
    detailed = tmp_path / "detailed.png"
    Image.new("1", (900, 700)).save(detailed)
    page = Page(write_report(tmp_path / "r.html", "Run", [Section("a", pictures=[(picture, "x"), (detailed, "y")])]))
    assert [image.get("class") for image in page.all("img")] == [None, "large"]
    (region,) = (each for each in page.all("div") if each.get("role") == "region")
    assert (region["aria-label"], region["tabindex"]) == ("Picture: y", "0")


def test_figures_and_commands_are_shown_as_they_are(tmp_path):
    line = "tubelet train 'my  videos' --lr <0.01>"
    path = write_report(tmp_path / "r.html", "Run", [Section("a", commands=[line])], figures={"top-1": "93.0 %"})
    text = path.read_text(encoding="utf-8")
    assert "<dt>top-1</dt><dd>93.0 %</dd>" in text
    (shown,) = re.findall(r"<pre.*?>(.*?)</pre>", text)
    assert html.unescape(re.sub("<.*?>", "", shown)) == line


def test_a_gallery_plays_in_a_loop(tmp_path):
    video = tmp_path / "video.mp4"
    video.write_bytes(b"-")
    for is_gallery in (True, False):
        section = Section("a", pictures=[(video, "x")], is_gallery=is_gallery)
        (film,) = Page(write_report(tmp_path / "r.html", "Run", [section])).all("video")
        assert {"loop", "muted", "playsinline"} <= film.keys() if is_gallery else "loop" not in film
        assert "controls" in film


def test_a_missing_or_foreign_picture_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png does not exist"):
        write_report(tmp_path / "r.html", "Run", [Section("a", pictures=[(tmp_path / "gone.png", "")])])
    with pytest.raises(ValueError, match=r"clip\.avi is neither a \.png nor an \.mp4"):
        write_report(tmp_path / "r.html", "Run", [Section("a", pictures=[(tmp_path / "clip.avi", "")])])
    assert not list(tmp_path.iterdir())


def test_a_report_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "runs" / "r.html"
    write_report(str(path), "old", [])
    assert write_report(path, "new", []) == path
    assert "<h1>new</h1>" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]
