"""Memory that is kept between runs: who gets it, who does not, and that it goes back."""

import copy
import gc
import resource
import threading

import pytest
import torch

import tubelet
from tubelet.kernels import arena

LARGE = (256, 1024)  # float32: a megabyte


@pytest.fixture(autouse=True)
def empty(cache_of_its_own):
    if not arena.available():
        pytest.skip(arena.why())
    gc.collect()
    arena.trim()


def test_what_one_tensor_leaves_the_next_takes():
    with arena.kept():
        x = torch.ones(LARGE)
        address = x.data_ptr()
        assert arena.size() == 0 and address % 64 == 0
        del x
        assert arena.size() == 2**20
        y = torch.zeros(LARGE)
        assert y.data_ptr() == address and arena.size() == 0 and not y.any()
        z = torch.ones(LARGE)  # while the block is lent
        assert z.data_ptr() != address and not y.any()


def test_blocks_grow_and_are_not_lent_for_little():
    with arena.kept():
        for rows in (100, 200, 300, 400):
            torch.ones(rows, 1024)
            assert rows * 4096 <= arena.size() < rows * 4096 + 2**16  # one block, in place of the smaller one
        size = arena.size()
        x = torch.ones(64, 1024)  # less than a quarter of it
        assert arena.size() == size
        del x
        torch.ones(10)
        assert arena.size() == size + 64 * 4096


def test_what_is_freed_elsewhere_goes_back():
    with arena.kept():
        x, y = torch.ones(LARGE), torch.ones(LARGE)
        del y
    assert arena.size() == 2**20
    del x
    assert arena.size() == 2**20
    torch.ones(LARGE)
    assert arena.size() == 2**20  # nothing is lent outside either
    arena.trim()
    assert arena.size() == 0


def test_an_error_ends_it():
    with pytest.raises(ZeroDivisionError), arena.kept():
        torch.ones(1 // 0)
    torch.ones(LARGE)
    assert arena.size() == 0


def test_other_threads_are_left_alone():
    with arena.kept():
        thread = threading.Thread(target=lambda: torch.ones(LARGE))
        thread.start()
        thread.join()
        assert arena.size() == 0


def test_several_threads_at_once():
    wrong = []

    def work(number):
        with arena.kept():
            for i in range(200):
                x = torch.full((40 + 40 * (i % 5), 1024), float(number))
                y = x + 1
                if not (x == number).all() or not (y == number + 1).all():
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def test_it_stands_before_torchs_allocator_once():
    library = arena._library()[0]
    library.arena_install()
    arena._library.__wrapped__()
    assert torch.ones(LARGE).sum() == 256 * 1024


def test_what_torch_does_with_storage_works_on_a_block():
    with arena.kept():
        x = torch.ones(LARGE)
        saved = copy.deepcopy(x)
        x.resize_(512, 1024)
        x.untyped_storage().resize_(2**22)
        shared = torch.ones(LARGE).share_memory_()
        cloned = torch._lazy_clone(saved)
        cloned += 1
        numpy = torch.ones(LARGE).numpy()
    assert saved.eq(1).all() and cloned.eq(2).all() and shared.eq(1).all() and (numpy == 1).all()


def test_an_optimized_network_takes_no_new_pages():
    """Maps of several megabytes are paid for by the first two answers alone, and given back with the network."""
    net = tubelet.create("slow_r50", num_classes=3).eval()
    x = torch.randn(1, 3, 4, 96, 96)
    fast = tubelet.optimize(net, x, seconds=0.0)
    for _ in range(2):
        fast(x)
    kept, before = arena.size(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        fast(x)
    assert arena.size() == kept > 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 200
    del fast
    gc.collect()
    assert arena.size() == 0
