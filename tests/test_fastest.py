import logging

import pytest
import torch

from tubelet.fastest import away, fastest, shown

X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("answer", "right", "furthest"),
    [
        (torch.tensor([[1.0, 2.001]]), torch.tensor([[1.0, 2.0]]), 5e-4),
        ({"a": torch.tensor([4.0]), "b": 3}, {"a": torch.tensor([4.0]), "b": 3}, 0.0),
        (torch.zeros(2, 0), torch.zeros(2, 0), 0.0),
    ],
)
def test_how_far_answers_are(answer, right, furthest):
    assert away(answer, right, torch.float32) == pytest.approx(furthest, rel=1e-3)


@pytest.mark.parametrize(
    "answer", [X + 0.002, X[:1], [X, X], torch.full((2, 3), float("nan")), torch.full((2, 3), float("inf"))]
)
def test_what_is_another_answer(answer):
    with pytest.raises(ValueError, match=r"its answers differ by .* and the limit is 0\.001"):
        away(answer, X, torch.float32)


def test_lower_precisions_may_differ_more():
    assert away(X + 0.1, X, torch.bfloat16) == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"limit is 0\.5"):
        away(-X, X, torch.bfloat16)


def test_the_fastest_that_is_right_is_taken(caplog):
    def broken():
        raise RuntimeError("no compiler\nand more")

    slow = lambda: lambda x: torch.stack([x * i for i in range(1, 400)])[0]  # noqa: E731
    ways = {
        "slow": slow,
        "quick": lambda: torch.clone,
        "wrong": lambda: lambda x: x + 1,
        "broken": broken,
    }
    with caplog.at_level(logging.WARNING, "tubelet"):
        name, way, times = fastest(ways, X, X, torch.float32)
    assert name == "quick"
    assert torch.equal(way(X), X)
    assert set(times) == {"slow", "quick"}
    assert shown(times).startswith("quick ")
    assert "broken is left out: no compiler" in caplog.messages
    assert any(line.startswith("wrong is left out: its answers differ by 1.0e+00") for line in caplog.messages)
    with pytest.raises(ValueError, match="none of wrong can run it"):
        fastest({"wrong": ways["wrong"]}, X, X, torch.float32)
