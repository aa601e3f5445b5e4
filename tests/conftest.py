"""One thread for torch: on busy cores, two that wait for each other make a small network a hundred times slower."""

import locale

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory):
    """Nothing is kept in the user's cache folder, nothing read from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUBELET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def locale_as_it_was():
    """ITK, with which tests write DICOM, leaves the process in the C locale."""
    spoken = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, spoken)


def pytest_terminal_summary(terminalreporter):
    """The table of tests/test_golden.py: file, network here, source, case, error."""
    reports = terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", [])
    rows = sorted(value for report in reports for key, value in report.user_properties if key == "golden")
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("answers against their sources")
    for row in rows:
        terminalreporter.line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
