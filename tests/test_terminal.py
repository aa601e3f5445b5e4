import csv
import io
import logging
import os

import pytest

from tubelet import terminal
from tubelet.terminal import Table, progress, say

ROWS = [
    {"class": "left", "samples": 12, "recall": 0.123456},
    {"class": "[red]up[/red]", "samples": 3, "recall": float("nan")},
]


def test_a_table_shows_rows_and_summary():
    lines = str(Table(ROWS, {"top1": 2 / 3, "views": 10, "of [b]": "[i]x"}, "val of clips[1]")).splitlines()
    assert lines[0] == "val of clips[1]"
    (head,) = [line for line in lines if "recall" in line]
    assert head.index("class") < head.index("samples") < head.index("recall")
    (left,) = [line for line in lines if "left" in line]
    assert left.split()[1::2] == ["left", "12", "0.1235"]
    assert any("[red]up[/red]" in line and "nan" in line for line in lines)
    assert lines[-3:] == ["top1: 0.6667", "views: 10", "of [b]: [i]x"]


def test_no_part_of_a_table_is_markup():
    table = str(Table([{"[bold]a": ":smile: [link=x]y[/link]"}], {":x:": ":tada:"}, "[i]title"))
    for text in ("[bold]a", ":smile: [link=x]y[/link]", ":x:: :tada:", "[i]title"):
        assert text in table


def test_a_table_has_no_colour_codes(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in str(Table(ROWS, {"top1": 0.5}, "title"))


def test_a_table_without_rows():
    assert str(Table([], {"top1": 0.5})) == "top1: 0.5"
    assert str(Table([])) == ""


def test_long_cells_are_folded_and_not_cut():
    name = "x" * 150
    assert str(Table([{"name": name, "n": 1}])).count("x") == 150


def test_csv_is_exact(tmp_path):
    rows = [{"name": 'a, "b"', "value": 1 / 3}, {"name": "é\nü", "value": 2}]
    path = Table(rows, {"unused": 1}).to_csv(str(tmp_path / "t.csv"))
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["name"] for row in read] == ['a, "b"', "é\nü"]
    assert float(read[0]["value"]) == 1 / 3
    assert list(read[0]) == ["name", "value"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.123456, "0.1235"), (1e-5, "1e-05"), (123456, "123456"), (True, "True"), ("a", "a")]
)
def test_show(value, shown):
    assert terminal.show(value) == shown


@pytest.mark.parametrize("items", [[], [1, 2, 3], range(5)])
def test_progress_yields_all(items, capsys):
    assert list(progress(items, "what")) == list(items)
    assert list(progress(iter(items), "what", len(items))) == list(items)
    assert list(progress((item for item in items), "what")) == list(items)
    assert capsys.readouterr().out == ""


def test_progress_takes_its_bar_away_when_left(monkeypatch):
    stopped = []
    monkeypatch.setattr(terminal.Bar, "stop", lambda self: stopped.append(self))
    for _ in progress([1, 2, 3], "what"):
        break
    with pytest.raises(ZeroDivisionError):
        for item in progress([0], "what"):
            _ = 1 / item
    assert len(stopped) == 2


def test_what_is_said_is_plain_text(monkeypatch):
    from rich.console import Console

    out = io.StringIO()
    monkeypatch.setattr(terminal, "_console", lambda: Console(file=out, width=20, highlight=False))
    say("wrote runs[bold]/:x:/a very long name of a file.mp4")
    assert out.getvalue() == "wrote runs[bold]/:x:/a very long name of a file.mp4\n"


def test_a_pipe_that_nobody_reads_ends_nothing(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stderr", pipe)
        say("a line")
        say("another")
        print("and what does not come from us", file=pipe, flush=True)


def test_log_lines_come_once(capsys, monkeypatch):
    logger = logging.getLogger("tubelet")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.WARNING)
    terminal.log_to_terminal()
    terminal.log_to_terminal()
    logger.info("a new head")
    assert capsys.readouterr().err == "a new head\n"


def test_a_number_of_things():
    assert [terminal.counted(n, "video") for n in (0, 1, 2000)] == ["0 videos", "1 video", "2,000 videos"]
