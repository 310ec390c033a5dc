"""Parallel kernels: the same result beside other threads, after a fork, with any setting; and none is changed."""

import _weakrefset
import concurrent.futures.thread
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from functools import partial
from pathlib import Path

import numba
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import nncjit
from nncjit.errors import OptionError
from nncjit.jit import JIT, address, atomic_add, kernel, load_i64, store_64, threads

N = 20_000 if JIT else 50


@kernel
def fill_share(work, worker):
    """Store the squares of the indices that it takes. work : address of int64[2], a counter and an array's address."""
    while True:
        k = atomic_add(work, 1)
        if k >= N:
            return
        store_64(load_i64(work, 1), k, k * k)


def squares(workers=2):
    out = np.zeros(N, np.int64)
    work = np.array([0, address(out, writes=True)])
    threads.run(fill_share, address(work, writes=True), workers)
    return out


WANT = np.arange(N) ** 2
PRANGE_PAYS = "threads.WORTH_COMPILING, threads._layer.is_crowded = 0, bool"


def in_process(code, **environment):
    """Run a program that can import this package and `squares`; its output."""
    places = [str(Path(nncjit.__file__).parent.parent), str(Path(__file__).parent)]
    environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(places)}
    code = f"from test_threads import *\n{PRANGE_PAYS}\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture(params=[False, True], ids=["prange", "pool"])
def crowded(request, monkeypatch):
    """Both ways to run workers side by side."""
    monkeypatch.setattr(threads, "WORTH_COMPILING", 0)
    monkeypatch.setattr(threads._layer, "is_crowded", lambda: request.param)


def test_numbas_threads_are_used_when_their_driver_has_paid(monkeypatch):
    monkeypatch.setattr(threads, "WORTH_COMPILING", threads._layer._started + 5)
    monkeypatch.setattr(threads._layer, "is_crowded", lambda: False)
    for _ in range(2):
        threads._layer.wanted(2)
        assert not threads._layer.carries(3)
    threads._layer.wanted(1)
    assert threads._layer.carries(2) == (threads._layer._name in ("omp", "tbb"))


@pytest.mark.kernel
@pytest.mark.parametrize("workers", [1, 2, 3, 7, 40])
def test_all_workers_together_do_the_work_once(workers, crowded):
    np.testing.assert_array_equal(squares(workers), WANT)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many"])
def test_a_wrong_number_of_threads_is_refused(wrong):
    with pytest.raises(OptionError, match="threads is"):
        threads.count(wrong)


def test_the_number_of_threads_follows_argument_environment_and_affinity(monkeypatch):
    monkeypatch.delenv("NNCJIT_THREADS", raising=False)
    if sys.platform == "linux":
        assert threads.count() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("NNCJIT_THREADS", "3")
    assert (threads.count(), threads.count(5)) == (3, 5)
    monkeypatch.setenv("NNCJIT_THREADS", "all")
    with pytest.raises(OptionError, match="all"):
        threads.count()


def test_a_pool_has_that_many_threads_and_is_none_for_one():
    with threads.pool(1) as pool:
        assert pool is None
    with threads.pool(3) as pool:
        assert pool.threads == 3
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)


@pytest.fixture
def few_threads(monkeypatch):
    """Let the system start so many threads more."""
    start = threading.Thread.start

    def allow(left):
        def limited(thread):
            nonlocal left
            left -= 1
            if left < 0:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)

    return allow


@pytest.mark.parametrize("allowed", [1, 2])
def test_a_pool_does_with_the_threads_that_can_be_started(allowed, few_threads):
    few_threads(allowed)
    with threads.pool(4) as pool:
        names = [pool.submit(lambda: (time.sleep(0.001), threading.current_thread().name)) for _ in range(20)]
        assert 1 <= len({name.result(60)[1] for name in names}) <= allowed
        assert threads.share([partial(int, k) for k in range(9)], pool) == list(range(9))


def test_without_any_thread_who_submits_a_task_does_it(few_threads):
    few_threads(0)
    with threads.pool(4) as pool:
        assert pool.submit(threading.current_thread).result(0) is threading.current_thread()
        assert isinstance(pool.submit(int, "x").exception(0), ValueError)
        assert pool.offer(int) is None
        assert threads.share([partial(int, k) for k in range(9)], pool) == list(range(9))
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)
    np.testing.assert_array_equal(squares(3), WANT)


def test_a_task_that_no_thread_could_be_started_for_is_done_once(few_threads):
    done = []
    with threads.pool(4) as pool:
        few_threads(0)
        pool.submit(done.append, 1)
        few_threads(4)
        pool.submit(done.append, 2).result(60)
    assert done == [1, 2]


@pytest.mark.parametrize("allowed", [0, 1, 2, 5])
def test_models_are_coded_where_few_threads_can_be_started(allowed, few_threads, tmp_path):
    model = {f"w{k}": np.random.default_rng(k).standard_normal((130, 70 * k)).astype(np.float32) for k in range(1, 7)}
    want = nncjit.decode(nncjit.encode(model, qp=-20, threads=1), threads=1)
    save_file(model, tmp_path / "m.safetensors")
    few_threads(allowed)
    nncjit.compress(tmp_path / "m.safetensors", tmp_path / "m.nnc", qp=-20, threads=8)
    few_threads(allowed)
    nncjit.decompress(tmp_path / "m.nnc", tmp_path / "back.safetensors", threads=8)
    few_threads(allowed)
    with nncjit.open(tmp_path / "m.nnc") as opened:
        ahead = dict(opened.iter_tensors())
    for found in (load_file(tmp_path / "back.safetensors"), ahead, nncjit.decode(tmp_path / "m.nnc")):
        assert all(np.array_equal(found[name], array) for name, array in want.items())


@pytest.mark.parametrize("nth", [1, 2])
def test_a_thread_whose_start_was_interrupted_works_no_longer_than_its_pool(nth, monkeypatch):
    start, begun, ended = threading.Thread.start, threading.Semaphore(0), []
    left = nth

    def work():
        begun.release()
        time.sleep(0.1)
        ended.append(threading.current_thread())

    def interrupted(thread):
        nonlocal left
        start(thread)
        left -= 1
        if left == 0:
            assert begun.acquire(timeout=60)
            raise KeyboardInterrupt

    def use():
        with threads.pool(3) as pool:
            for _ in range(3):
                pool.submit(work)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        use()
    assert len(ended) == nth
    assert not any(thread.is_alive() for thread in ended)


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="no such signal")
def test_a_signal_handler_may_use_threads_whatever_it_interrupts():
    code = """
        signal.alarm(120)  # ends the process, if it waits for ever
        start, results = threading.Thread.start, []
        def handle(*_):
            results.append((squares(3) == WANT).all())
            with threads.pool(3) as pool:
                results.append(threads.share([partial(int, k) for k in range(9)], pool) == list(range(9)))
        def interrupted(thread):
            signal.raise_signal(signal.SIGINT)
            start(thread)
        squares(1)
        signal.signal(signal.SIGINT, handle)
        threading.Thread.start = interrupted
        threads.WORTH_COMPILING = 1 << 60
        with threads.pool(3) as pool:
            done = [one.result() for one in [pool.submit(int, k) for k in range(9)]]
        print(done == list(range(9)), len(results) >= 2, all(results))
    """
    assert in_process(code) == "True True True"


def test_settings_of_numba_stay_as_the_user_left_them(crowded):
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(squares(2), WANT)
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(before)


def test_many_threads_may_run_kernels_at_once(crowded):
    results = [None] * 4

    def caller(n):
        results[n] = all((squares(2) == WANT).all() for _ in range(20 if JIT else 2))

    callers = [threading.Thread(target=caller, args=(n,), daemon=bool(n % 2)) for n in range(4)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert results == [True] * 4


@pytest.mark.parametrize("wrong", [(3,), (5, 3), (7, 3, 5)])
def test_the_error_of_the_first_task_that_has_one_is_raised(wrong):
    def task(k):
        if k in wrong:
            time.sleep(0.01 * (k == min(wrong)))
            raise ValueError(k)

    with threads.pool(4) as pool, pytest.raises(ValueError, match=str(min(wrong))):
        threads.share([partial(task, k) for k in range(20)], pool)


OF_PYTHON = {m.__file__ for m in (threading, concurrent.futures.thread, concurrent.futures._base, weakref, _weakrefset)}
"""Modules that leave a lock taken, or lose the exception, if one comes in the wrong moment."""


def bears_interrupts(frame):
    """Whether it is in none of these modules, or waits there: for a thread, or for a condition without its lock."""
    name = frame.f_code.co_name
    waits = name in ("join", "_wait_for_tstate_lock") or (name == "wait" and "gotit" in frame.f_locals)
    return waits or frame.f_code.co_filename not in OF_PYTHON


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no such signal")
@pytest.mark.parametrize("way", ["share", "run"])
def test_nothing_runs_any_more_when_a_signal_has_interrupted_the_caller(way, monkeypatch):
    """Whenever it comes, but while a module of Python's own cannot bear it: what kernels work on is freed soon."""
    monkeypatch.setattr(threads, "WORTH_COMPILING", 1 << 60)
    monkeypatch.setattr(threads, "JIT", True)
    monkeypatch.setattr(threads.numba_internals, "compile_worker", lambda _: None)
    memory, late, interrupted = [threading.Event()], [], 0  # set when it is freed

    def work(_, k):
        freed = memory[-1]
        try:
            for _ in range(1 if threading.current_thread() is threading.main_thread() else 8):
                time.sleep(0.001)
        finally:
            late.extend([k] if freed.is_set() else [])

    def in_threads(pool):
        try:
            if way == "run":
                threads.run(work, 0, 4)
            else:
                threads.share([partial(work, 0, k) for k in range(8)], pool)
        finally:
            memory[-1].set()

    def interrupt(_, frame):
        if bears_interrupts(frame):
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 1e-4)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in np.linspace(1e-5, 0.02, 60):
            memory.append(threading.Event())
            with threads.pool(4) as pool:
                try:
                    signal.setitimer(signal.ITIMER_REAL, delay)
                    in_threads(pool)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    time.sleep(0.02)
    assert interrupted > 5
    assert not late


@pytest.mark.parametrize("layer", ["default", "omp", "workqueue", "tbb"])
def test_any_threading_layer_will_do_also_one_that_is_not_there(layer):
    code = """
        assert (squares(2) == WANT).all()
        callers = [threading.Thread(target=squares) for _ in range(3)]
        [one.start() for one in callers], [one.join() for one in callers]
        print((squares(2) == WANT).all())
    """
    assert in_process(code, NUMBA_THREADING_LAYER=layer) == "True"


def test_more_threads_than_numba_has_are_still_used():
    assert in_process("print((squares(4) == WANT).all())", NUMBA_NUM_THREADS="1") == "True"


posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_runs_kernels_after_its_parent_did():
    code = """
        before = (squares(2) == WANT).all()
        child = os.fork()
        if child == 0:
            os._exit(0 if (squares(2) == WANT).all() else 1)
        print(before, os.waitpid(child, 0)[1], (squares(2) == WANT).all())
    """
    assert in_process(code) == "True 0 True"


@posix
def test_a_child_that_loads_the_package_itself_is_careful_too():
    code = """
        import os, numba, numpy as np
        @numba.njit(parallel=True)
        def total(x):
            s = 0.0
            for k in numba.prange(x.size):
                s += x[k]
            return s
        total(np.ones(100))
        child = os.fork()
        if child == 0:
            from test_threads import WANT, squares, threads
            threads.WORTH_COMPILING, threads._layer.is_crowded = 0, bool
            os._exit(0 if (squares(2) == WANT).all() else 1)
        print(os.waitpid(child, 0)[1])
    """
    places = [str(Path(nncjit.__file__).parent.parent), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
    )
    assert done.stdout.strip() == "0", done.stderr[-2000:]


@posix
def test_a_fork_while_another_thread_compiles_does_not_hang():
    code = """
        import time
        from numba import njit
        def compile_on():
            while True:
                njit(lambda x: x + 1)(1)
        threading.Thread(target=compile_on, daemon=True).start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                njit(lambda x: x + 2)(1)
                os._exit(0 if (squares(2) == WANT).all() else 1)
            assert os.waitpid(child, 0)[1] == 0
            time.sleep(0.01)
        print("done")
        sys.stdout.flush()
        os._exit(0)
    """
    assert in_process(code) == "done"


@posix
def test_processes_of_multiprocessing_run_kernels():
    code = """
        import multiprocessing
        assert (squares(2) == WANT).all()
        for method in multiprocessing.get_all_start_methods():
            with multiprocessing.get_context(method).Pool(2) as pool:
                assert all((out == WANT).all() for out in pool.map(squares, [2, 3, 1]))
        print("done")
    """
    assert in_process(code) == "done"


def test_at_the_end_of_the_interpreter_kernels_still_run():
    code = """
        import atexit
        from concurrent.futures import thread
        threads._layer.forked()
        squares(2)
        atexit.register(lambda: print((squares(2) == WANT).all()))
    """
    assert in_process(code) == "True"


USES = """
    import atexit, os, threading, nncjit, numpy
    from safetensors.numpy import save_file
    save_file({f"w{k}": numpy.ones((90, 90 + k), "f") for k in range(5)}, "m.safetensors")
    def use():
        nncjit.compress("m.safetensors", "m.nnc", threads=3)
        nncjit.decompress("m.nnc", "back.safetensors", threads=3)
        with nncjit.open("m.nnc") as opened:
            print(len(nncjit.decode("m.nnc", threads=3)), len(dict(opened.iter_tensors())), sorted(os.listdir()))
"""


@pytest.mark.parametrize("first", ["", "use()\n"], ids=["first use", "used before"])
@pytest.mark.parametrize(
    "late",
    ["atexit.register(use)", "threading.Thread(target=lambda: threading.main_thread().join() or use()).start()"],
    ids=["atexit", "a thread that lives on"],
)
def test_models_are_coded_when_the_main_thread_has_ended(late, first, tmp_path):
    code = textwrap.dedent(USES) + first + late
    environment = {**os.environ, "PYTHONPATH": str(Path(nncjit.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=environment,
        cwd=tmp_path,
    )
    assert done.stderr == ""
    assert done.stdout == "5 5 ['back.safetensors', 'm.nnc', 'm.safetensors']\n" * (1 + bool(first))
