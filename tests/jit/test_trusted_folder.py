"""What is loaded as code was written by nobody else, whoever may have prepared the folder or the file."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from nncjit.jit import trusted_folder
from nncjit.jit.trusted_folder import UntrustedError, open_folder

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no numbers of users")


@pytest.fixture(params=["by handle", "by name"])
def folder(request, tmp_path, monkeypatch):
    """A folder of this user, on a system that opens files relative to folders, and on one that cannot."""
    if request.param == "by name":
        monkeypatch.setattr(trusted_folder, "_BY_HANDLE", False)
    elif not trusted_folder._BY_HANDLE:
        pytest.skip("no handles of folders")
    path = tmp_path / "folder"
    path.mkdir(mode=0o700)
    return path


def names(path):
    return sorted(file.name for file in path.iterdir())


def read(path, name="kernel", mode=0o755, owners=()):
    with open_folder(path, mode, frozenset(owners)) as folder:
        return folder.read(name)


def write(path, content=b"code", name="kernel"):
    with open_folder(path, 0o755) as folder:
        folder.write(name, content)


def test_what_was_written_is_read_and_nothing_else_is_left(folder):
    for content in (b"", b"code", b"\r\n\x1a" * 100_000):
        write(folder, content)
        assert read(folder) == content
    assert names(folder) == ["kernel"]


def test_a_file_that_is_not_there_is_an_error_of_the_system(folder):
    with pytest.raises(FileNotFoundError):
        read(folder, "another")
    with pytest.raises(FileNotFoundError):
        read(folder / "deeper")


def test_a_write_that_fails_leaves_what_was_there_and_no_draft(folder):
    (folder / "kernel").mkdir()
    with pytest.raises(OSError, match=r"irectory|denied"):
        write(folder)
    assert names(folder) == ["kernel"]


@posix
def test_others_may_never_write_to_a_file_whatever_the_umask(folder):
    before = os.umask(0)
    try:
        write(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "kernel").stat().st_mode) == 0o644


def open_files():
    """How many files this process has open, where the system tells."""
    listed = Path("/proc/self/fd")
    return len(names(listed)) if listed.is_dir() else 0


@posix
@pytest.mark.parametrize("kind", ["link to a file", "link to nothing", "pipe", "folder"])
def test_what_is_no_regular_file_is_neither_followed_nor_waited_for(folder, kind):
    write(folder, name="target")
    path = folder / "kernel"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(folder / ("target" if kind == "link to a file" else "nothing"))
    before = open_files()
    with pytest.raises(OSError):  # noqa: PT011 - of which kind depends on the system
        read(folder)
    assert open_files() == before
    if kind != "folder":
        write(folder)
        assert read(folder) == b"code"
        assert read(folder, "target") == b"code"


@posix
@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_folder_to_which_others_may_write_is_not_used(folder, mode):
    write(folder)
    folder.chmod(mode)
    for use in (read, write):
        with pytest.raises(UntrustedError, match="others may do too much"):
            use(folder)
    folder.chmod(0o755)
    assert read(folder) == b"code"
    with pytest.raises(UntrustedError):
        read(folder, mode=0o700)


@posix
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_to_which_others_may_write_is_not_read(folder, mode):
    write(folder)
    (folder / "kernel").chmod(mode)
    with pytest.raises(UntrustedError, match="others may do too much"):
        read(folder)


@posix
def test_folders_and_files_of_another_user_are_not_used_unless_that_user_is_trusted(folder, monkeypatch):
    write(folder)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for use in (read, write):
        with pytest.raises(UntrustedError, match="belongs to user"):
            use(folder)
    assert read(folder, owners=[owner]) == b"code"


@posix
def test_a_file_of_another_user_in_a_folder_of_ones_own_is_not_read(folder, monkeypatch):
    write(folder)
    owner = os.geteuid()
    with open_folder(folder, 0o755) as opened:
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
        with pytest.raises(UntrustedError, match="belongs to user"):
            opened.read("kernel")


@posix
def test_a_link_to_a_folder_is_not_followed(folder):
    write(folder)
    link = folder.with_name("link")
    link.symlink_to(folder)
    with pytest.raises(OSError, match=r"irectory|link|folder"):
        read(link)


@pytest.mark.parametrize("folder", ["by handle"], indirect=True)
def test_a_folder_that_is_exchanged_while_it_is_open_does_not_matter(folder):
    write(folder)
    with open_folder(folder, 0o755) as opened:
        folder.rename(folder.with_name("moved"))
        folder.mkdir()
        (folder / "kernel").write_bytes(b"evil")
        assert opened.read("kernel") == b"code"
        opened.write("kernel", b"new")
    assert (folder / "kernel").read_bytes() == b"evil"


def test_only_old_files_with_the_prefix_and_old_drafts_are_removed(folder):
    for name in ("one-old", "one-new", "two-old", "draft-old", "draft-new"):
        write(folder, name=name)
        if name.endswith("old"):
            os.utime(folder / name, (0, time.time() - 1000))
    with open_folder(folder, 0o755) as opened:
        opened.remove_old("one-", 500)
    assert names(folder) == ["draft-new", "one-new", "two-old"]
