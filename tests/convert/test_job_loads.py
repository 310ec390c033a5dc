"""Jobs under hard conditions: killed, out of disk, slow files, workers that die. Finished, or one clear error."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from convert.models import tensors, write_model

import nncjit
from nncjit.convert.job_status import status_of

SHARD = 30_000

SLOW_JOB = """
import sys, time
import nncjit
from nncjit.convert import sharded_compression
real = sharded_compression.encode_piece
def slow(*args):
    result = real(*args)
    time.sleep(float(sys.argv[3]))
    return result
sharded_compression.encode_piece = slow
nncjit.compress(sys.argv[1], sys.argv[2], shard_bytes=30_000)
"""

FULL_DISK_JOB = """
import resource, sys
import nncjit
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    nncjit.compress(sys.argv[1], sys.argv[2], shard_bytes=1_000_000, quantizer="raw")
except nncjit.ModelError as error:
    print(error)
"""


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".nnc", ".json")}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("source") / "m.safetensors", tensors(10))


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    nncjit.compress(source, folder / "m.nnc", shard_bytes=SHARD)
    return files(folder)


def start(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
@pytest.mark.filterwarnings("ignore:.*removed.*a run left which was killed:nncjit.NncWarning")
@pytest.mark.parametrize("wait_for", [0, 1, 2])
def test_after_kill_9_the_same_call_goes_on(wait_for, source, expected, tmp_path):
    target, process = tmp_path / "m.nnc", start(SLOW_JOB, source, tmp_path / "m.nnc", 0.3)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if (tmp_path / "m.nnc.journal").exists() and len(list(tmp_path.glob("m-*.nnc"))) >= wait_for:
                break
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    state = status_of(target)
    assert not state.complete
    assert not state.at_work
    nncjit.compress(source, target, shard_bytes=SHARD)
    assert files(tmp_path) == expected
    assert status_of(target).complete


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes here")
def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(source, tmp_path):
    told, _ = start(FULL_DISK_JOB, source, tmp_path / "m.nnc").communicate(timeout=120)
    assert told.count("\n") == 1
    assert "too large" in told.lower() or "space" in told.lower()
    assert not list(tmp_path.glob("*.nnc"))
    assert not list(tmp_path.glob("*.tmp"))
    assert not (tmp_path / "m.nnc.index.json").exists()
    nncjit.compress(source, tmp_path / "m.nnc", shard_bytes=1_000_000, quantizer="raw")
    assert status_of(tmp_path / "m.nnc").complete


class Throttled(io.BytesIO):
    """A file that gives a few bytes at a time, and takes its time."""

    def read(self, size=-1):
        time.sleep(0.0005)
        return super().read(min(size, 700) if size and size > 0 else 700)


def test_a_slow_file_gives_the_same(expected):
    name = next(name for name in expected if name.endswith(".nnc"))
    whole = nncjit.decode(expected[name])
    with nncjit.open(Throttled(expected[name])) as file:
        for tensor, array in file.iter_tensors():
            np.testing.assert_array_equal(array, whole[tensor])


@pytest.mark.slow
def test_a_dask_cluster_that_loses_a_worker_finishes(source, expected, tmp_path):
    distributed = pytest.importorskip("distributed")
    import dask

    target = tmp_path / "m.nnc"
    quiet = {"distributed.admin.event-loop": "asyncio", "distributed.worker.profile.enabled": False}
    with (
        dask.config.set(quiet),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1", silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        pids = client.run(os.getpid)
        killed = []

        def kill_one(done: int, total: int, name: str) -> None:
            if not killed:
                killed.append(next(iter(pids.values())))
                os.kill(killed[0], signal.SIGKILL)

        nncjit.compress(source, target, shard_bytes=SHARD, executor=client.get_executor(pure=False), progress=kill_one)
    assert killed
    assert files(tmp_path) == expected
    assert list(json.loads((tmp_path / "m.nnc.index.json").read_text())["weight_map"]) == list(tensors(10))
