"""The cache of compiled kernels: it hits, it notices every change, and no state of the disk can break a kernel."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nncjit
from nncjit.jit import JIT

pytestmark = pytest.mark.skipif(not JIT, reason="nothing is compiled")

KERNELS = """
from nncjit.jit import kernel
from nncjit.probe.parts_kernels import part

@kernel
def probe(x):
    return part(x) + 1
"""
PARTS = """
from nncjit.jit import helper
from nncjit.probe.numbers import FACTOR

@helper
def part(x):
    return FACTOR * x
"""
PROGRAM = """
from nncjit.probe.kernels import probe
print(probe(5), sum(probe.stats.cache_hits.values()))
"""


class Install:
    """A copy of what a kernel needs of the package, with a kernel that stands on other files."""

    def __init__(self, root: Path) -> None:
        self.root, self.package = root, root / "site" / "nncjit"
        source = Path(nncjit.__file__).parent
        shutil.copytree(source / "jit", self.package / "jit", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(source / "errors.py", self.package)
        (self.package / "__init__.py").write_text("")
        self.write("kernels", KERNELS)
        self.write("parts_kernels", PARTS)
        self.write("numbers", "FACTOR = 2\n")

    def write(self, module: str, text: str) -> None:
        path = self.package / "probe" / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def start(self, program: str = PROGRAM, **environment: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
        places = {
            "HOME": str(self.root / "home"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "TMPDIR": str(self.root / "tmp"),
            "PYTHONPATH": str(self.package.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        (self.root / "tmp").mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", program],
            env=clean | places | environment,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **environment: str) -> tuple[int, int]:
        """The kernel's result for 5, and how often the cache hit."""
        return result(self.start(**environment))

    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("nncjit.probe*") if path.is_file())


def result(process: subprocess.Popen[str]) -> tuple[int, int]:
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    value, hits = out.split()
    return int(value), int(hits)


@pytest.fixture
def install(tmp_path):
    return Install(tmp_path)


def test_a_second_process_finds_what_the_first_compiled(install):
    assert [install.run(), install.run()] == [(11, 0), (11, 1)]
    assert [path.parent for path in install.files()] == [install.package / "__pycache__" / "kernels"]


def test_a_change_in_any_file_that_a_kernel_stands_on_is_noticed(install):
    assert install.run() == (11, 0)
    install.write("numbers", "FACTOR = 3\n")
    assert install.run() == (16, 0)
    install.write("parts_kernels", PARTS.replace("* x", "* x * x"))
    assert install.run() == (76, 0)
    install.write("kernels", KERNELS.replace("+ 1", "+ 2"))
    assert [install.run(), install.run()] == [(77, 0), (77, 1)]


UPGRADED = """
from pathlib import Path
from nncjit.probe import kernels, numbers
Path(numbers.__file__).write_text("FACTOR = 3\\n")
print(kernels.probe(5), sum(kernels.probe.stats.cache_hits.values()))
"""


IDENTITY = """
from nncjit.jit import identity
from nncjit.probe import kernels
print(identity(kernels.probe))
"""


def identity_of(install, **environment):
    out, errors = install.start(IDENTITY, **environment).communicate(timeout=300)
    assert not errors
    return out.strip()


def test_a_kernel_is_another_one_where_anything_is_that_it_stands_on(install):
    first = identity_of(install)
    assert first == identity_of(install)
    others = [identity_of(install, NUMBA_OPT="2"), identity_of(install, NUMBA_CPU_NAME="generic")]
    install.write("numbers", "FACTOR = 3\n")
    others.append(identity_of(install))
    assert len({"", first, *others}) == 5


@pytest.mark.parametrize("compiled", [False, True])
def test_an_upgrade_of_a_running_process_mixes_no_versions(install, compiled):
    if compiled:
        install.write("numbers", "FACTOR = 3\n")
        assert install.run() == (16, 0)
        install.write("numbers", "FACTOR = 2\n")
    before = install.files()
    assert result(install.start(UPGRADED)) == (11, 0)
    assert install.files() == before
    assert install.run() == (16, int(compiled))


def test_a_change_elsewhere_compiles_nothing(install):
    install.run()
    install.write("other", "x = 1\n")
    assert install.run() == (11, 1)


def test_a_damaged_file_is_a_miss_and_is_replaced(install):
    install.run()
    (path,) = install.files()
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        path.write_bytes(damaged)
        assert install.run() == (11, 0)
    assert install.run() == (11, 1)
    path.unlink()
    path.mkdir()
    assert install.run() == (11, 0)


def test_where_the_package_cannot_be_written_the_users_folder_serves(install):
    (install.package / "__pycache__").write_text("in the way")
    assert [install.run(), install.run()] == [(11, 0), (11, 1)]
    assert [path.parent for path in install.files()] == [install.root / "cache" / "nncjit"]


def test_without_a_home_the_folder_for_temporary_files_serves(install):
    folder = put_in_the_way(install)
    assert [install.run(), install.run()] == [(11, 0), (11, 1)]
    assert [path.parent for path in install.files()] == [folder]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_nowhere_to_write_is_said_once_and_is_no_error(install):
    process = install.start(PROGRAM + "probe(5.0)\n", NUMBA_CACHE_DIR="/dev/null/nowhere")
    out, errors = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "11 0\n")
    told = [line for line in errors.splitlines() if "NncWarning" in line]
    assert len(told) == 1
    assert "/dev/null/nowhere/nncjit cannot be written" in told[0]
    assert told[0].endswith("set NUMBA_CACHE_DIR to a folder that can be written")
    assert install.files() == []


def test_the_users_own_folder_is_respected(install):
    own = install.root / "own"
    assert [install.run(NUMBA_CACHE_DIR=str(own)), install.run(NUMBA_CACHE_DIR=str(own))] == [(11, 0), (11, 1)]
    assert all(own in path.parents for path in install.files())


def test_settings_that_change_the_code_have_files_of_their_own(install):
    install.run()
    assert [install.run(NUMBA_BOUNDSCHECK="1"), install.run(NUMBA_OPT="1")] == [(11, 0), (11, 0)]
    assert len(install.files()) == 3


def test_first_runs_side_by_side_do_not_disturb_each_other(install):
    assert [result(one)[0] for one in [install.start() for _ in range(4)]] == [11] * 4
    assert install.run() == (11, 1)
    assert len(list(install.files()[0].parent.iterdir())) == 1, "no drafts are left"


def test_versions_not_used_for_long_are_removed(install):
    install.run()
    (old,) = install.files()
    os.utime(old, (0, 0))
    install.write("numbers", "FACTOR = 3\n")
    install.run()
    assert old not in install.files()


def put_in_the_way(install):
    """Leave only the folder for temporary files to the cache; its path."""
    for name in ("site/nncjit/__pycache__", "cache", "home"):
        (install.root / name).write_text("in the way")
    return install.root / "tmp" / f"nncjit-{os.geteuid()}"


posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no numbers of users")


@posix
@pytest.mark.parametrize("mode", [0o750, 0o711])
def test_a_folder_among_temporary_files_that_others_may_enter_is_not_used(install, mode):
    folder = put_in_the_way(install)
    folder.mkdir(parents=True)
    folder.chmod(mode)
    assert [install.run(), install.run()] == [(11, 0), (11, 0)]
    assert list(folder.iterdir()) == []
    folder.chmod(0o700)
    assert [install.run(), install.run()] == [(11, 0), (11, 1)]


@posix
def test_what_lies_where_the_folder_should_be_is_not_followed(install):
    folder = put_in_the_way(install)
    own = install.root / "own"
    own.mkdir(mode=0o700)
    folder.parent.mkdir(exist_ok=True)
    folder.symlink_to(own)
    assert [install.run(), install.run()] == [(11, 0), (11, 0)]
    assert list(own.iterdir()) == []
    folder.unlink()
    os.mkfifo(folder)
    assert install.run() == (11, 0)


@posix
@pytest.mark.parametrize("replace", [lambda path, copy: path.symlink_to(copy), lambda path, _: os.mkfifo(path)])
def test_a_link_or_a_pipe_in_place_of_a_kernel_is_a_miss_and_is_replaced(install, replace):
    install.run()
    (path,) = install.files()
    copy = shutil.copy(path, install.root / "copy")
    path.unlink()
    replace(path, copy)
    assert [install.run(), install.run()] == [(11, 0), (11, 1)]
    assert path.is_file()
    assert not path.is_symlink()


@posix
def test_a_kernel_that_others_may_write_is_a_miss(install):
    install.run()
    (path,) = install.files()
    path.chmod(0o666)
    assert [install.run(), install.run()] == [(11, 0), (11, 1)]


def test_the_cache_works_where_the_system_has_no_flags_and_no_users(install):
    windows = """
import os
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC", "geteuid", "getuid"):
    vars(os).pop(name, None)
os.supports_dir_fd = set()
"""
    results = [result(install.start(windows + PROGRAM)) for _ in range(2)]
    assert results == [(11, 0), (11, 1)]
    assert [path.parent for path in install.files()] == [install.package / "__pycache__" / "kernels"]


def test_importing_the_package_loads_numba_and_no_other_package_but_errors():
    program = "import sys, nncjit.jit; print(*sorted(m for m in sys.modules if m.startswith('nncjit.')))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(nncjit.__file__).parent.parent)},
    )
    assert {name.split(".")[1] for name in done.stdout.split()} <= {"errors", "jit"}
