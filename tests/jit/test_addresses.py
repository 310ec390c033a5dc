"""Plain mode finds every access to memory that nobody gave, that nobody keeps, or that is for loads only."""

from __future__ import annotations

import ctypes
import gc
import mmap
import threading

import numpy as np
import pytest

from nncjit import jit
from nncjit.jit import JIT, StrayAddressError, address, addresses, lanes, load_i64, load_u8, store_8, store_64

pytestmark = pytest.mark.kernel
plain = pytest.mark.skipif(JIT, reason="compiled code is not checked")


def test_an_address_is_that_of_the_first_byte():
    whole = np.arange(10, dtype=np.int32)
    assert address(whole) == whole.ctypes.data
    assert address(whole[3:]) == address(whole) + 12
    assert isinstance(address(np.empty((0, 4))), int)


def test_what_has_no_single_address_is_refused():
    with pytest.raises(AssertionError, match="contiguous"):
        address(np.zeros((4, 4))[:, 1])
    fixed = np.frombuffer(bytes(8), np.uint8)
    with pytest.raises(AssertionError, match="read-only"):
        address(fixed, writes=True)
    address(fixed)


MACHINE = lanes._NumpyMachine(16)
SPARE = np.zeros(8, np.uint8)


def spare():
    return address(SPARE, writes=True)


ACCESSES = {
    "load": (8, False, lambda p: load_i64(p, 0)),
    "load a byte": (1, False, lambda p: load_u8(p, 0)),
    "load a float": (4, False, lambda p: jit.load_f32(p, 0)),
    "copy from": (5, False, lambda p: jit.copy_bytes(spare(), p, 5)),
    "load lanes": (64, False, lambda p: MACHINE.load(p, 0)),
    "gather": (4, False, lambda p: MACHINE.gather(p, [0])),
    "store": (8, True, lambda p: store_64(p, 0, 1)),
    "store a byte": (1, True, lambda p: store_8(p, 0, 1)),
    "store a float": (4, True, lambda p: jit.store_f32(p, 0, 1.0)),
    "add": (8, True, lambda p: jit.atomic_add(p, 1)),
    "copy to": (5, True, lambda p: jit.copy_bytes(p, spare(), 5)),
    "zero": (5, True, lambda p: jit.zero_bytes(p, 5)),
    "store lanes": (64, True, lambda p: MACHINE.store(p, 0, np.zeros(16, np.float32))),
    "store lanes as bytes": (16, True, lambda p: MACHINE.store_u8(p, 0, np.zeros(16, np.int32))),
    "store lanes as bits": (2, True, lambda p: MACHINE.store_bits(p, 0, np.zeros(16, bool))),
}
"""name -> (how many bytes from p on are touched, whether they are written, the access)"""


@plain
@pytest.mark.parametrize("name", ACCESSES)
def test_every_access_is_checked_at_both_ends_and_for_what_it_does(name):
    size, stores, access = ACCESSES[name]
    given = np.zeros(1000, np.uint8)[300:500]
    start = address(given)
    if stores:
        with pytest.raises(StrayAddressError, match="for loads only"):
            access(start)
        address(given, writes=True)
    for inside in (0, 77, 200 - size):
        access(start + inside)
    for outside in (-300, -1, 200 - size + 1, 200, 600):
        with pytest.raises(StrayAddressError, match="no array"):
            access(start + outside)


@plain
def test_sizes_below_zero_are_stray_and_empty_accesses_are_not():
    given = np.zeros(100, np.uint8)
    start = address(given, writes=True)
    with pytest.raises(StrayAddressError):
        jit.zero_bytes(start + 50, -10)
    jit.zero_bytes(start - 1000, 0)
    assert address(given[:0]) == start


@plain
def test_an_access_to_an_array_that_nobody_keeps_is_stray():
    start = address(np.zeros(100))
    for access in (load_i64, load_u8):
        with pytest.raises(StrayAddressError, match="nobody keeps the ndarray"):
            access(start, 0)


@plain
def test_new_arrays_do_not_bring_an_old_address_back_to_life():
    stale = [address(np.full(40, k), writes=True) for k in range(200)]
    new = [np.zeros(40, int) for _ in range(2000)]
    fresh = {address(array, writes=True) for array in new}
    assert not fresh & set(stale)
    for start in stale:
        with pytest.raises(StrayAddressError):
            store_64(start, 0, 1)


@plain
def test_a_view_needs_its_owner_and_not_itself():
    owner = np.arange(100)
    start = address(owner[10:20][2:5])
    assert load_i64(start, 2) == 14
    with pytest.raises(StrayAddressError, match="no array"):
        load_i64(start, 3)
    view = owner[::2]
    del owner
    assert load_i64(start, 0) == 12
    del view
    with pytest.raises(StrayAddressError, match="nobody keeps"):
        load_i64(start, 0)


@plain
def test_views_may_overlap_but_an_access_must_lie_inside_one():
    owner = np.arange(64, dtype=np.uint8)
    first, second = address(owner[:20]), address(owner[12:40], writes=True)
    store_64(second, 0, 0)
    with pytest.raises(StrayAddressError, match="loads only"):
        store_8(first, 11, 0)
    assert load_i64(first + 12, 0) == 0
    with pytest.raises(StrayAddressError, match="no array"):
        lanes._NumpyMachine(8).load(first + 8, 0)


def bytes_of_an_mmap():
    owner = mmap.mmap(-1, 4096)
    owner[:] = bytes(range(256)) * 16
    return owner


OWNERS = {
    "bytes": lambda: bytes(range(256)),
    "bytearray": lambda: bytearray(range(256)),
    "memoryview": lambda: memoryview(bytes(range(256))),
    "memoryview of an array": lambda: memoryview(np.arange(256, dtype=np.uint8)),
    "mmap": bytes_of_an_mmap,
    "ctypes": lambda: (ctypes.c_uint8 * 256)(*range(256)),
}


@plain
@pytest.mark.parametrize("name", OWNERS)
@pytest.mark.parametrize("see", [lambda owner: owner, memoryview], ids=["itself", "through a memoryview"])
def test_memory_of_any_owner_lives_as_long_as_it(name, see):
    owner = OWNERS[name]()
    array = np.frombuffer(see(owner), np.uint8)
    start = address(array[7:100])
    assert load_u8(start, 3) == 10
    del owner
    assert load_u8(start, 3) == 10
    del array
    gc.collect()
    with pytest.raises(StrayAddressError, match="nobody keeps"):
        load_u8(start, 3)


@plain
def test_the_books_do_not_keep_a_mapped_file_open():
    owner = bytes_of_an_mmap()
    start = address(np.frombuffer(owner, np.uint8))
    assert load_u8(start, 3) == 3
    owner.close()
    with pytest.raises(StrayAddressError):
        load_u8(start, 3)


@plain
def test_the_books_keep_a_bounded_amount_of_dead_memory(monkeypatch):
    books = addresses._Books()
    monkeypatch.setattr(addresses, "_books", books)
    alive = np.zeros(1000, np.uint8)
    start = address(alive)
    for size in (1 << 20, 1, 1 << 24, 100):
        for _ in range(50):
            address(np.empty(size, np.uint8))
            kept = sum(owner.n_bytes for owner in (*books._owners.values(), *books._dead))
            assert kept < addresses._QUARANTINE_BYTES + addresses._SWEEP_BYTES + 2 * size + (1 << 14)
    for _ in range(40_000):
        address(np.empty(8, np.uint8))
    assert len(books._owners) + len(books._dead) <= 1 + (1 << 26 >> 12) + (1 << 21 >> 12)
    in_pages = {id(interval.owner) for page in books._pages.values() for interval in page}
    assert len(in_pages) == len(books._owners) + len(books._dead)
    load_u8(start, 999)


@plain
def test_many_threads_may_use_the_books():
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            for _ in range(300):
                own = rng.integers(0, 1 << 60, 20)
                start = address(own, writes=True)
                store_64(start, 3, load_i64(start, 19))
                assert own[3] == own[19]
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
