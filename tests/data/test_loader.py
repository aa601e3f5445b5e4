import pytest
import torch
from torch.utils.data import Dataset

from tubelet.data.loader import EpochOrder, loader, reason
from tubelet.data.video import VideoError


class Keys(Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, key):
        return key


class Broken(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise self.error


def order(seed, epoch, num_samples=50):
    order = EpochOrder(num_samples, seed)
    order.set_epoch(epoch)
    return list(order)


@pytest.mark.parametrize("num_samples", [0, 1, 2, 50])
def test_an_epoch_is_a_permutation_with_its_number(num_samples):
    keys = order(3, 4, num_samples)
    assert sorted(keys) == [(4, index) for index in range(num_samples)]
    assert len(EpochOrder(num_samples, 0)) == num_samples


def test_the_order_depends_on_seed_and_epoch_alone():
    one = order(0, 0)
    assert one == order(0, 0)
    assert [index for _, index in one] != list(range(50))
    indices = {tuple(index for _, index in order(seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(indices) == 9


def test_batches_follow_the_order_and_the_last_is_smaller():
    keys = EpochOrder(7, 0)
    batches = loader(Keys(), 3, order=keys, workers=0)
    for epoch in (0, 1):
        keys.set_epoch(epoch)
        seen = [(epochs.tolist(), indices.tolist()) for epochs, indices in batches]
        assert [len(indices) for _, indices in seen] == [3, 3, 1]
        pairs = [pair for epochs, indices in seen for pair in zip(epochs, indices, strict=True)]
        assert pairs == list(keys)
    assert [batch.tolist() for batch in loader(Keys(), 4, workers=0)] == [[0, 1, 2, 3], [4, 5, 6]]


def test_at_least_one_worker_and_one_core_left(monkeypatch):
    for cores, workers in ((1, 1), (2, 1), (5, 4), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: range(n), raising=False)
        assert loader(Keys(), 1).num_workers == workers


ERRORS = {
    "a/b: c.mp4: frame 3: damaged": VideoError("a/b: c.mp4: frame 3: damaged"),
    "no such key": RuntimeError("no such key"),
    "AssertionError": AssertionError(),
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("line", ERRORS)
def test_an_error_of_a_worker_is_one_line(monkeypatch, line, workers):
    # how long torch waits for a worker to end
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    batches = iter(loader(Broken(ERRORS[line]), 1, workers=workers))
    with pytest.raises(type(ERRORS[line])) as caught:
        next(batches)
    if workers:
        batches._shutdown_workers()
    assert reason(caught.value) == line


def test_other_errors_are_their_text():
    assert reason(ValueError(" two\nlines ")) == "two\nlines"
    assert reason(torch.OutOfMemoryError("out of memory")) == "out of memory"
