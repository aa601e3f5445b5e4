"""Batches, resuming in mid-epoch, bad files, workers that die or hang."""

import gc
import logging
import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import closing
from itertools import islice
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import tubelet.data.loader as data_loader
from tubelet import ClipSpec
from tubelet.data.augment import Augment
from tubelet.data.datasets import TrainClips
from tubelet.data.loader import SUBSTITUTES, loader, reason
from tubelet.data.order import EpochOrder
from tubelet.data.sample import Sample, VideoData
from tubelet.data.video import VideoError, write_video


class Keys(Dataset):
    """Items that are their keys; some are bad, and some do something worse than failing."""

    def __init__(self, num_samples=7, bad=(), act=None):
        self.num_samples, self.bad, self.act = num_samples, set(bad), act
        self.read = []

    def __len__(self):
        return self.num_samples

    def name(self, key):
        return f"v{index_of(key)}.mp4"

    def __getitem__(self, key):
        self.read.append(key)
        if index_of(key) in self.bad:
            raise VideoError(f"{self.name(key)}: damaged")
        if self.act:
            self.act(index_of(key))
        return key if isinstance(key, tuple) else (key, key)


def index_of(key):
    return key[1] if isinstance(key, tuple) else key


def indices(batches):
    """Sample numbers of each batch."""
    return [batch[1].tolist() for batch in batches]


@pytest.fixture
def quick_end(monkeypatch):
    """How long torch waits for a worker to end."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)


@pytest.mark.parametrize("world", [2, 3, 8])
@pytest.mark.parametrize("workers", [0, 1])
def test_ranks_of_an_evaluation_see_each_sample_once(world, workers):
    seen = []
    for rank in range(world):
        seen += [i for batch in indices(loader(Keys(), 2, order=range(rank, 7, world), workers=workers)) for i in batch]
    assert sorted(seen) == list(range(7))


def test_batches_follow_the_order_and_the_last_is_smaller():
    order = EpochOrder(7, 0)
    batches = loader(Keys(), 3, order=order, workers=0)
    assert len(batches) == 3
    for epoch in (0, 1, 2):  # a finished epoch is followed by the next one
        seen = [[column.tolist() for column in batch] for batch in batches]
        assert [len(columns[0]) for columns in seen] == [3, 3, 1]
        assert [key for columns in seen for key in zip(*columns, strict=True)] == order.keys(epoch)
    assert indices(loader(Keys(), 4, workers=0)) == [[0, 1, 2, 3], [4, 5, 6]]


def test_an_epoch_can_be_chosen():
    order = EpochOrder(7, 0)
    batches = loader(Keys(), 7, order=order, workers=0)
    first = next(iter(batches))
    assert first[0].tolist() == [0] * 7
    batches.set_epoch(0)  # again
    assert next(iter(batches))[0].tolist() == [0] * 7
    batches.sampler.set_epoch(5)
    assert next(iter(batches))[0].tolist() == [5] * 7
    batches = loader(Keys(), 2, order=order, workers=0)
    assert indices(islice(batches, 2)) == indices(islice(batches, 2)), "an epoch that was left begins again"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_is_read_once_at_a_time(quick_end, workers):
    batches = loader(Keys(), 2, order=EpochOrder(7, 0), workers=workers)
    first, second = iter(batches), iter(batches)
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="closed or iterated anew; to read twice at once, make two"):
        next(first)
    assert len(list(second)) == 3, "the one that began last goes on"
    with pytest.raises(RuntimeError, match="closed or iterated anew"):
        list(zip(batches, batches, strict=True))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Random clips of six videos of noise."""
    root = tmp_path_factory.mktemp("clips")
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        frames = torch.randint(0, 256, (12, 3, 16, 24), generator=generator, dtype=torch.uint8)
        write_video(root / f"{i}.mp4", frames, 25)
    data = VideoData(("a", "b"), {"train": [Sample(root / f"{i}.mp4", i % 2) for i in range(6)]})
    spec = ClipSpec(num_frames=4, resize=None, crop=(12, 12))
    return TrainClips(data, "train", spec, Augment(flip=True, color=0.5), "error", seed=0)


def assert_same(one, other):
    assert len(one) == len(other)
    for (clip, target), (same, again) in zip(one, other, strict=True):
        assert torch.equal(clip, same) and torch.equal(target, again)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [1, 3, 5, 8])
def test_a_loader_goes_on_in_the_middle_of_an_epoch(clips, workers, taken):
    order = EpochOrder(6, 0, clips_per_video=3)  # 18 clips, 5 batches
    whole = loader(clips, 4, order=order, workers=workers)
    expected = [batch for _ in range(3) for batch in whole]
    batches = loader(clips, 4, order=order, workers=workers)
    first: list = []
    while len(first) < taken:
        for batch in batches:
            first.append(batch)
            if len(first) == taken:
                state = batches.state_dict()  # whatever the workers have read ahead
                break
    again = loader(clips, 4, order=order, workers=2 - workers)
    again.load_state_dict(state)
    assert_same(first, expected[:taken])
    rest = [batch for _ in range(2 if taken < 8 else 1) for batch in again]
    assert_same(rest, expected[taken : taken + len(rest)])
    assert len(rest) == {1: 9, 3: 7, 5: 10, 8: 2}[taken]


def test_a_loader_that_was_left_is_no_cycle():
    """In a cycle of references torch waits five seconds for each worker."""
    batches = loader(Keys(50), 2, order=EpochOrder(50, 0), workers=1)
    list(islice(batches, 3))
    last = weakref.ref(batches)
    gc.disable()
    try:
        del batches
        assert last() is None
    finally:
        gc.enable()


def test_what_was_read_is_not_read_again():
    batches = loader(Keys(100), 5, order=EpochOrder(100, 0), workers=0)
    list(islice(batches, 17))
    again = loader(Keys(100), 5, order=EpochOrder(100, 0), workers=0)
    again.load_state_dict(batches.state_dict())
    assert len(list(again)) == 3
    assert again.dataset.read == EpochOrder(100, 0).keys(0)[85:]


def test_a_state_of_something_else_is_refused():
    state = loader(Keys(), 3, order=EpochOrder(7, 0), workers=0).state_dict()
    for num_samples, batch_size, seed in ((8, 3, 0), (7, 4, 0), (7, 3, 1)):
        other = loader(Keys(num_samples), batch_size, order=EpochOrder(num_samples, seed), workers=0)
        with pytest.raises(ValueError, match=r"the state of a loader of .* does not fit"):
            other.load_state_dict(state)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("processes", "later", "left"), [(1, 8, 0), (8, 1, 1), (1, 2, 1)])
def test_a_state_fits_another_number_of_processes(processes, later, left, accumulate):
    """Also where a last step of fewer clips than processes is left out: 20 clips are 16 and 4."""
    one, again = (
        loader(Keys(20), 16, order=EpochOrder(20, 0), accumulate=accumulate, world=world, workers=0)
        for world in (processes, later)
    )
    list(islice(one, accumulate))
    again.load_state_dict(one.state_dict())
    again.set_epoch(0)
    assert len(list(again)) == left * accumulate
    assert (again.epoch, again.position) == (0, len(again))
    assert len(list(again)) == len(again)
    assert again.epoch == 1


def test_a_state_of_other_parts_is_refused():
    parts = loader(Keys(20), 16, order=EpochOrder(20, 0), accumulate=2, workers=0)
    with pytest.raises(ValueError, match="does not fit"):
        parts.load_state_dict(loader(Keys(20), 16, order=EpochOrder(20, 0), world=8, workers=0).state_dict())


def test_lightning_resumes_in_the_middle_of_an_epoch(clips, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")

    class Seen(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen = []

        def training_step(self, batch, _):
            self.seen.append(batch)
            return self.weight * 1.0

        def on_train_batch_end(self, outputs, batch, batch_index):
            path = tmp_path / f"{self.trainer.current_epoch}-{batch_index}.ckpt"
            if not path.exists():
                self.trainer.save_checkpoint(path)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fitted(**options):
        module = Seen()
        trainer = lightning.Trainer(
            max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
            devices=1, enable_model_summary=False, default_root_dir=tmp_path, accumulate_grad_batches=2,
        )  # fmt: skip
        with closing(loader(clips, 4, order=EpochOrder(6, 0, clips_per_video=2), workers=1)) as batches:
            trainer.fit(module, batches, **options)
        return module.seen

    whole = fitted()
    assert len(whole) == 9
    for epoch, index in ((0, 0), (1, 1), (1, 2), (2, 0)):
        assert_same(fitted(ckpt_path=tmp_path / f"{epoch}-{index}.ckpt"), whole[3 * epoch + index + 1 :])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_named_and_the_way_on(quick_end, workers):
    with pytest.raises(VideoError) as caught:
        list(loader(Keys(bad=[4]), 3, workers=workers))
    assert str(caught.value).startswith("v4.mp4: damaged (--on_bad skip goes on without")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_name_that_is_no_utf8_is_read_like_others(quick_end, workers):
    named = Keys(4)
    named.name = lambda key: f"caf\udce9{index_of(key)}.mp4"
    assert indices(loader(named, 2, workers=workers)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_left_out_and_counted(workers, caplog):
    batches = loader(Keys(7, bad=[1, 3, 4, 5]), 3, workers=workers, on_bad="skip")
    for _ in range(2):
        assert indices(batches) == [[0, 2], [6]], "of the second batch nothing is left"
        assert list(batches.bad) == ["v1.mp4", "v3.mp4", "v4.mp4", "v5.mp4"]
    line = "4 of 7 samples are bad, first v1.mp4: damaged; v3.mp4: damaged; v4.mp4: damaged"
    assert caplog.messages == [line, line]  # one an epoch
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("clips_per_video", [1, 2])
def test_bad_samples_have_the_same_substitutes(workers, clips_per_video):
    order = EpochOrder(20, 0, clips_per_video=clips_per_video)
    batches = loader(Keys(20, bad=range(0, 20, 3)), 4, order=order, workers=workers, on_bad="substitute")
    seen = []
    for epoch in range(3):
        keys = [key for batch in batches for key in zip(*(column.tolist() for column in batch), strict=True)]
        assert len(keys) == len(order)
        for (_, asked, _), (number, index, _) in zip(order.keys(epoch), keys, strict=True):
            assert number == epoch and index % 3
            assert index == asked or asked % 3 == 0
        seen.append(keys)
    assert set(batches.bad) == {f"v{i}.mp4" for i in range(0, 20, 3)}
    again = loader(Keys(20, bad=range(0, 20, 3)), 4, order=order, workers=0, on_bad="substitute")
    assert [[k for b in again for k in zip(*(c.tolist() for c in b), strict=True)] for _ in range(3)] == seen


def test_a_training_epoch_has_all_its_steps():
    bad = range(1, 20)
    order = EpochOrder(20, 0)
    for epoch in range(5):
        batches = loader(Keys(20, bad=range(10)), 1, order=order, workers=0, on_bad="skip")
        batches.set_epoch(epoch)
        seen = [i for batch in indices(batches) for i in batch]
        assert len(seen) == 20 and set(seen) <= set(range(10, 20))
    with pytest.raises(VideoError, match=rf"{SUBSTITUTES} samples in place of v\d+.mp4 are bad as well, last v\d+"):
        list(loader(Keys(20, bad=bad), 1, order=order, workers=1, on_bad="skip"))


def test_nothing_left_is_an_error():
    with pytest.raises(VideoError, match=r"no sample is left: 3 of 3 samples are bad, first v0\.mp4: damaged"):
        list(loader(Keys(3, bad=range(3)), 2, workers=0, on_bad="skip"))
    assert list(loader(Keys(0), 2, workers=0)) == []


def test_one_process_may_have_nothing_left():
    assert indices(loader(Keys(4, bad=[1, 3]), 2, order=range(1, 4, 2), workers=0, on_bad="skip")) == []


def test_bad_samples_survive_a_resume():
    order = EpochOrder(9, 0)
    one = loader(Keys(9, bad=[1, 5]), 3, order=order, workers=0, on_bad="skip")
    list(one)
    again = loader(Keys(9, bad=[7]), 3, order=order, workers=0, on_bad="skip")
    again.load_state_dict(one.state_dict())
    list(again)
    assert set(again.bad) == {"v1.mp4", "v5.mp4", "v7.mp4"}


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="workers -1"):
        loader(Keys(), 1, workers=-1)
    with pytest.raises(ValueError, match="on_bad 'ignore'; there is raise, skip, substitute"):
        loader(Keys(), 1, on_bad="ignore")
    with pytest.raises(ValueError, match="on_bad substitute is for training"):
        loader(Keys(), 1, on_bad="substitute")
    with pytest.raises(ValueError, match="timeout_s -1"):
        loader(Keys(), 1, timeout_s=-1)
    with pytest.raises(ValueError, match="an order of 6 samples for 7: give EpochOrder their number"):
        loader(Keys(), 1, order=EpochOrder(6, 0), workers=0)


@pytest.mark.parametrize("order", [torch.tensor([4, 0, 2]), np.array([4, 0, 2])])
def test_an_order_may_be_a_tensor_or_an_array(order):
    assert indices(loader(Keys(), 2, order=order, workers=0)) == [[4, 0], [2]]


def test_at_least_one_worker_and_one_core_left(monkeypatch):
    for cores, workers in ((1, 1), (2, 1), (5, 4), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: range(n), raising=False)
        assert loader(Keys(), 1)._loader.num_workers == workers


def test_workers_are_forked_whatever_pythons_default_is(monkeypatch):
    """It is forkserver from Python 3.14 on, which imports the caller's script anew."""
    monkeypatch.setattr("multiprocessing.get_start_method", lambda allow_none=False: "forkserver")
    context = loader(Keys(), 1)._loader.multiprocessing_context
    assert loader(Keys(), 1)._loader.num_workers > 0 and context.get_start_method() == "fork"


class Threads(Keys):
    def __getitem__(self, key):
        return torch.get_num_threads(), key


def test_a_worker_has_one_thread():
    assert next(iter(loader(Threads(), 2, workers=1)))[0].tolist() == [1, 1]


def dies(how):
    def act(index):
        if index == 4:
            os.kill(os.getpid(), how)

    return act


@pytest.mark.parametrize(
    ("how", "advice"),
    [
        (signal.SIGKILL, "memory was full; take fewer workers"),
        (signal.SIGSEGV, "the file is the cause; `tubelet doctor"),
        (signal.SIGBUS, "the shared memory was full; /dev/shm"),
    ],
)
def test_a_worker_that_dies_is_named_with_its_file(quick_end, how, advice):
    with pytest.raises(ChildProcessError) as caught:
        list(loader(Keys(9, act=dies(how)), 1, workers=2))
    line = reason(caught.value)
    assert f"worker 0 (process {[int(word) for word in line.replace(')', ' ').split() if word.isdigit()][1]})" in line
    assert f"died of {how.name} while it read v4.mp4: " in line
    assert advice in line and "\n" not in line


def test_a_worker_is_named_when_torch_tells_of_its_end_meanwhile(quick_end, monkeypatch):
    """Its signal comes at any line, also of what looks for the worker."""
    tell, told = data_loader.Batches._tell, []

    def interrupted(self, error):
        told.append(error)
        if len(told) == 1:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")
        tell(self, error)

    monkeypatch.setattr(data_loader.Batches, "_tell", interrupted)
    with pytest.raises(ChildProcessError, match=r"worker 0 .* died of SIGKILL while it read v4\.mp4: "):
        list(loader(Keys(9, act=dies(signal.SIGKILL)), 1, workers=2))


def test_a_worker_that_ends_itself_is_named(quick_end):
    with pytest.raises(ChildProcessError, match=r"worker 0 .* died of status 0 while it read v4\.mp4: "):
        list(loader(Keys(9, act=lambda index: index == 4 and os._exit(0)), 1, workers=2))


def test_a_worker_that_dies_while_the_network_computes_is_named(quick_end):
    batches = loader(Keys(40), 1, workers=2)
    with (
        pytest.raises(ChildProcessError, match=r"worker 1 .* died of SIGKILL (between two|while it read v)"),
        batches.watched(),
    ):
        for number, _ in enumerate(batches):
            if number == 3:
                os.kill(batches._loader._iterator._workers[1].pid, signal.SIGKILL)
                time.sleep(30)  # torch speaks up in the middle of whatever runs


def test_workers_leave_it_to_their_parent_to_stop():
    """Ctrl-C and a cluster's end reach all processes at once."""
    with closing(loader(Keys(40), 1, workers=2)) as batches:
        seen = []
        for batch in batches:
            seen += indices([batch])
            if len(seen) in (1, 10):
                for worker in batches._loader._iterator._workers:
                    os.kill(worker.pid, signal.SIGTERM if len(seen) == 1 else signal.SIGINT)
        assert seen == [[index] for index in range(40)]
    assert not active_children()


def test_signals_between_a_workers_birth_and_its_first_line_are_not_lost(monkeypatch):
    """They wait: a worker ignores them then, and the parent gets its own."""
    begin, heard = data_loader._begin, []
    monkeypatch.setattr(data_loader, "_begin", lambda worker: (os.kill(os.getpid(), signal.SIGTERM), begin(worker)))
    iterator = data_loader.DataLoader.__iter__
    monkeypatch.setattr(
        data_loader.DataLoader, "__iter__", lambda self: (os.kill(os.getpid(), signal.SIGTERM), iterator(self))[1]
    )
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with closing(loader(Keys(4), 1, workers=1)) as batches:
            assert indices(batches) == [[0], [1], [2], [3]]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


OPEN = """
from tubelet.data.loader import loader

class Numbers:
    def __len__(self): return 9
    def __getitem__(self, index): return index, index
    def name(self, index): return "v.mp4"

batches = loader(Numbers(), 1, workers=2)
epoch = iter(batches)
next(epoch)
print(len([1 for _ in epoch]))
second = iter(batches)
next(second)
"""


@pytest.mark.slow
def test_a_program_that_leaves_a_loader_open_ends():
    done = subprocess.run([sys.executable, "-c", OPEN], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()[-1:], done.stderr) == (0, ["8"], "")


FORKED = """
import os, sys, tubelet.data.loader as module
done = []
class Kept:
    def close(self): done.append(self); os.write(1, b"closed ")
kept = Kept()
module._LOADERS.add(kept)
if os.fork() == 0:
    sys.exit()  # as Python does, with all that is to be done at its end
os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_leaves_its_parents_loaders_alone():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "closed ")


def hangs(handler):
    def act(index):
        if index == 4:
            signal.signal(signal.SIGTERM, handler)
            time.sleep(600)

    return act


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_worker_that_hangs_is_named_and_ended(quick_end, handler):
    batches = loader(Keys(9, act=hangs(handler)), 1, workers=2, timeout_s=3)
    seen = []
    with pytest.raises(TimeoutError, match=r"no batch in 3 s; worker 0 reads v4\.mp4: its disk or network hangs"):
        seen.extend(batches)
    assert indices(seen) == [[0], [1], [2], [3]]
    assert not active_children()


@pytest.mark.parametrize("timeout_s", [0, 600])
def test_a_slow_worker_is_waited_for(timeout_s):
    batches = loader(Keys(3, act=lambda index: time.sleep(0.3)), 1, workers=1, timeout_s=timeout_s)
    batches._loader.timeout = 0.1  # seconds between two looks
    assert indices(islice(batches, 1)) == [[0]]
    assert indices(batches) == [[0], [1], [2]], "what was read ahead for an epoch that was left is forgotten"


SMALL = """
import torch
from tubelet.data.loader import loader, reason

class Large:
    def __len__(self): return 8
    def __getitem__(self, index): return torch.zeros(3_000_000, dtype=torch.uint8), index
    def name(self, index): return "v.mp4"

try:
    list(loader(Large(), 2, workers=1))
except OSError as error:
    print(reason(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is of Linux")
def test_shared_memory_that_is_too_small_is_said():
    mount = "mount -t tmpfs -o size=4m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small /dev/shm is not allowed here")
    code = f'{mount} && exec "$0" -c "$1"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", code, sys.executable, SMALL], capture_output=True, text=True)
    assert "no room in the shared memory for the workers' batches; /dev/shm has 4 MB: give it more" in done.stdout


ERRORS = {"no such key": RuntimeError("no such key"), "AssertionError": AssertionError()}


class Broken(Keys):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def __getitem__(self, key):
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("line", ERRORS)
def test_an_error_of_a_worker_is_one_line(quick_end, line, workers):
    with pytest.raises(type(ERRORS[line])) as caught:
        next(iter(loader(Broken(ERRORS[line]), 1, workers=workers, on_bad="skip")))
    assert reason(caught.value) == line


def test_other_errors_are_their_text():
    assert reason(ValueError(" two\nlines ")) == "two\nlines"
    assert reason(torch.OutOfMemoryError("out of memory")) == "out of memory"


class Clips(Keys):
    """Clips with two boxes, with none, with one."""

    def __init__(self, sizes=((4, 4),) * 3):
        super().__init__(3)
        self.sizes = sizes

    def __getitem__(self, index):
        count = (2, 0, 1)[index]
        boxes, targets = torch.full((count, 4), float(index)), torch.full((count, 5), float(index))
        return torch.zeros(3, 2, *self.sizes[index]), (boxes, targets), index


@pytest.mark.parametrize("workers", [0, 1])
def test_boxes_of_a_batch_know_their_clip(workers):
    clips, boxes, targets, index = next(iter(loader(Clips(), 3, workers=workers)))
    assert clips.shape == (3, 3, 2, 4, 4)
    assert boxes.tolist() == [[0, 0, 0, 0, 0]] * 2 + [[2, 2, 2, 2, 2]]
    assert targets.tolist() == [[0] * 5] * 2 + [[2] * 5]
    assert index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_clips_of_different_sizes_are_no_batch(quick_end, workers):
    with pytest.raises(VideoError, match=r"^clips of different sizes .* \[\(4, 4\), \(4, 6\)\] cannot be one batch"):
        next(iter(loader(Clips(((4, 4), (4, 4), (4, 6))), 3, workers=workers)))
