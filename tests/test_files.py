"""Files appear whole or not at all, and every failure is one line that names the file."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from nncjit import files
from nncjit.errors import ModelError, NncWarning
from nncjit.files import atomic_write, check_readable, os_errors, read_at, reserve, write_at


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new"
    with atomic_write(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs the list of open files of Linux")
@pytest.mark.parametrize("slow", [1, 1 << 40], ids=["on a thread", "at once"])
def test_the_old_file_is_let_go(tmp_path, monkeypatch, slow):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    monkeypatch.setattr(files, "SLOW_TO_FREE", slow)
    with atomic_write(path) as file:
        file.write(b"new")
    for thread in threading.enumerate():
        if thread.name == "nncjit-close":
            thread.join()
    assert path.read_bytes() == b"new"
    held = [link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert not [name for name in held if name.startswith("model")]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "model"
    path.write_bytes(b"old")

    def interrupted():
        with atomic_write(path) as file:
            file.write(b"new, but not all of it")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "model"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def written_until(path, step):
    """Write a file, with Ctrl-C at this step of it; whether it came. Python looks for signals where calls return."""
    left = step

    def interrupt(frame, event, _):
        nonlocal left
        left -= event == "c_return" and frame.f_code.co_filename in (files.__file__, Path.open.__code__.co_filename)
        if left == 0:
            sys.setprofile(None)
            raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(interrupt)
    try:
        with atomic_write(path) as file:
            file.write(b"new")
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(before)
    return False


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Python closes what `open` could not return
def test_an_interrupt_at_any_step_leaves_no_hidden_file(tmp_path):
    """Also one that comes when the hidden file was just made, and `open` has not returned it yet."""
    path, step, found = tmp_path / "model", 0, set()
    while True:
        path.write_bytes(b"old")
        step += 1
        came = written_until(path, step)
        assert list(tmp_path.iterdir()) == [path], step
        found.add(path.read_bytes())
        if not came:
            break
    assert step > 20
    assert found == {b"old", b"new"}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_of_the_old_file_are_kept_and_new_ones_follow_the_umask(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"")
    old.chmod(0o604)
    mask = os.umask(0o027)
    try:
        for path in (old, new):
            with atomic_write(path):
                pass
    finally:
        os.umask(mask)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (old, new)] == [0o604, 0o640]


def test_a_link_stays_a_link(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder / "file")
    with atomic_write(link, fsync=True) as file:
        file.write(b"through the link")
    assert link.is_symlink()
    assert (folder / "file").read_bytes() == b"through the link"
    assert len(list(folder.iterdir())) == 1


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("\N{GREEK SMALL LETTER ALPHA}" * 127)
    with atomic_write(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


def refused(path):
    with pytest.raises(ModelError) as caught, atomic_write(path):
        pytest.fail("was opened for writing")
    assert repr(str(path)).strip("'") in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_where_nothing_can_be_written_is_said_before_the_work_starts(tmp_path):
    assert "there is no folder" in refused(tmp_path / "missing" / "file")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    assert "not a directory" in refused(tmp_path / "file" / "below")


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="has no devices in files")
def test_a_device_is_not_replaced_by_a_file():
    assert "is not a regular file" in refused(Path("/dev/null"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no /proc")
def test_a_folder_that_takes_no_files_is_named():
    assert "cannot write in /proc" in refused(Path("/proc/model"))


def test_write_protection_is_respected(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # what root would not be told
    assert "is write-protected" in refused(path)
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("action", ["file.write(bytes(10_000))", "reserve(file, 10_000)"])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, action):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    script = f"""
import resource
from nncjit import files
from nncjit.errors import ModelError, NncWarning
from nncjit.files import atomic_write, reserve
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write({str(path)!r}) as file:
        {action}
except ModelError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: file too large\n"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_that_concern_another_file_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "model"):
        (tmp_path / "other").open("rb")
    with pytest.raises(ConnectionResetError), atomic_write(tmp_path / "model"):
        raise ConnectionResetError(errno.ECONNRESET, "connection reset by peer")


def test_an_oserror_becomes_one_line_with_the_file(tmp_path):
    with pytest.raises(ModelError, match=r"missing: no such file or directory$"), os_errors("elsewhere"):
        (tmp_path / "missing").open("rb")
    with pytest.raises(ModelError, match=r"^model: no space left on device$"), os_errors("model"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-lfs pointer"),
        (b"\n  <!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"<html>", "is a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
    ],
)
def test_what_cannot_be_a_model_is_said_in_one_line(tmp_path, content, reason):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        check_readable(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_folder_or_nothing_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="no such file or directory"):
        check_readable(tmp_path / "missing")
    with pytest.raises(ModelError, match=r"is a folder, not a file$"):
        check_readable(tmp_path)
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ModelError, match=rf"is a folder, not a file; it holds {name}$"):
            check_readable(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes in files")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is not a regular file"):
        check_readable(tmp_path / "pipe")


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no file can have this name"):
        check_readable(tmp_path / "a\0b")
    assert "no file can have this name" in refused(f"{tmp_path}/a\0b")


def test_anything_else_is_left_to_its_format(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"any other bytes")
    check_readable(path)


@pytest.mark.parametrize("system", ["this one", "without positional calls"])
def test_threads_share_a_file(tmp_path, monkeypatch, system):
    if system != "this one":
        monkeypatch.delattr(os, "preadv", raising=False)
        monkeypatch.delattr(os, "pwrite", raising=False)
    monkeypatch.setattr(files, "_PIECE", 1000)  # as if the arrays were of many gigabytes
    rows = np.arange(64 * 1000).reshape(64, 1000)
    got = np.zeros_like(rows)
    with atomic_write(tmp_path / "model") as file:
        reserve(file, rows.nbytes)

        def write_and_read(part):
            for row in range(part, 64, 4):
                write_at(file, rows[row], row * rows[row].nbytes)
                file.flush()
                assert read_at(file, got[row], row * rows[row].nbytes) == rows[row].nbytes

        threads = [threading.Thread(target=write_and_read, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    np.testing.assert_array_equal(got, rows)
    assert (tmp_path / "model").read_bytes() == rows.tobytes()


def test_reading_past_the_end_tells_how_much_there_was(tmp_path):
    (tmp_path / "short").write_bytes(bytes(10))
    with (tmp_path / "short").open("rb") as file:
        assert read_at(file, np.empty(4, np.int32), 4) == 6
        assert read_at(file, np.empty((0, 3)), 4) == 0
        assert read_at(file, np.empty((), np.float16), 8) == 2


@pytest.mark.skipif(os.name != "posix", reason="locks as on POSIX")
def test_what_a_killed_run_left_is_removed_and_told(tmp_path):
    target = tmp_path / "model.nnc"
    code = f"""
import os, sys
from nncjit.files import atomic_write
with atomic_write({str(target)!r}) as file:
    file.write(b"half"); file.flush()
    print("writing", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), 9)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "writing\n"
    (hidden,) = tmp_path.iterdir()
    os.utime(hidden, (0, 0))
    other = tmp_path / f".model.nnc.{'0' * 12}.tmp.bak"
    other.touch()
    os.utime(other, (0, 0))
    with atomic_write(target) as file:  # another run is at work: its file stays
        file.write(b"whole")
    assert hidden.exists()
    child.communicate("go on\n")
    with pytest.warns(NncWarning, match="4 bytes that a run left"), atomic_write(target) as file:
        file.write(b"whole again")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([target.name, other.name])
    assert target.read_bytes() == b"whole again"


def test_a_hidden_file_that_was_just_made_is_no_waste(tmp_path):
    fresh = tmp_path / f".model.nnc.{'a' * 12}.tmp"
    fresh.touch()
    with atomic_write(tmp_path / "model.nnc") as file:
        file.write(b"x")
    assert fresh.exists()
