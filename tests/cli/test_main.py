"""The command as a whole: exit codes, one line for each failure, and nothing heavy before it is needed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import pytest

import nncjit
from nncjit.cli.main import VERBS, main
from nncjit.errors import BitstreamError, ModelError, NncWarning, OptionError

HEAVY = ("numba", "llvmlite", "numpy", "scipy", "safetensors", "tqdm", "torch")


def python(code, folder, **kwargs):
    """Run a piece of Python in a process of its own, away from the checkout."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, check=False, **kwargs
    )


def fails(monkeypatch, error):
    """Make `nncjit.verify` raise."""

    def verify(*args, **kwargs):
        raise error

    monkeypatch.setattr(nncjit, "verify", verify, raising=False)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["compress", "--help"], ["eval", "--help"], ["inspect", "--help"], ["--version"], ["nonsense"]],
)
def test_help_needs_nothing_heavy(words, tmp_path):
    done = python(
        f"""
        import sys
        from nncjit.cli.main import main
        try:
            main({words!r})
        except SystemExit:
            pass
        print("loaded:", [name for name in {HEAVY!r} if name in sys.modules])
        """,
        tmp_path,
    )
    assert done.stdout.endswith("loaded: []\n"), done.stdout + done.stderr


def test_help_names_every_verb(capsys):
    with pytest.raises(SystemExit) as exited:
        main(["--help"])
    assert exited.value.code == 0
    out = capsys.readouterr().out
    assert all(verb in out and summary in out for verb, summary in VERBS.items())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_within_the_terminal(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "88")
    with pytest.raises(SystemExit) as exited:
        main([verb, "--help"])
    assert exited.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: nncjit {verb}" in out
    assert max(map(len, out.splitlines())) <= 88


@pytest.mark.parametrize(
    "words",
    [["-q"], ["nonsense"], ["verify"], ["verify", "a", "b"], ["verify", "a", "--threads", "x"], ["inspect", "-z", "a"]],
)
def test_bad_usage_is_2(words, capsys):
    with pytest.raises(SystemExit) as exited:
        main(words)
    assert exited.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BitstreamError("unknown type 9", bit=17, path="Unit"), 1, "x.nnc: Unit: unknown type 9 (bit 17 = byte 2 + 1)"),
        (ModelError("no tensor 'w'"), 1, "no tensor 'w'"),
        (OptionError("qp is 9999"), 2, "qp is 9999"),
        (FileNotFoundError(2, "No such file or directory", "x.nnc"), 1, "x.nnc: No such file or directory"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError(), 1, "not enough memory"),
        (ModelError("bad\nname \x1b[31m"), 1, "bad\\nname \\x1b[31m"),
    ],
)
def test_a_failure_is_one_line_on_stderr(error, code, line, monkeypatch, capsys):
    fails(monkeypatch, error)
    assert main(["verify", "x.nnc"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"nncjit: error: {line}\n")


def test_ctrl_c_is_one_line_and_130(monkeypatch, capsys):
    fails(monkeypatch, KeyboardInterrupt())
    assert main(["verify", "x.nnc"]) == 130
    assert capsys.readouterr() == ("", "nncjit: interrupted\n")


def test_a_warning_is_one_line_and_no_failure(monkeypatch, capsys):
    def verify(*args, **kwargs):
        warnings.warn("w: 3 values are not finite", NncWarning, stacklevel=2)
        return type("Report", (), {"to_dict": lambda self: {}})()

    monkeypatch.setattr(nncjit, "verify", verify, raising=False)
    assert main(["verify", "x.nnc", "--json"]) == 0
    assert capsys.readouterr() == ("{}\n", "nncjit: warning: w: 3 values are not finite\n")


def test_a_bug_is_not_hidden(monkeypatch):
    fails(monkeypatch, AssertionError("a bug"))
    with pytest.raises(AssertionError):
        main(["verify", "x.nnc"])


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_unwind_so_that_unfinished_files_are_removed(number, code, tmp_path):
    done = python(
        f"""
        import os, signal, sys
        import nncjit
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
        signal.alarm(60)
        def verify(*args, **kwargs):
            try:
                os.kill(os.getpid(), {int(number)})
                signal.pause()
            finally:
                print("cleaned up")
        nncjit.verify = verify
        sys.argv = ["nncjit", "verify", "x.nnc"]
        from nncjit.cli.main import console
        console()
        """,
        tmp_path,
    )
    assert (done.stdout, done.returncode) == ("cleaned up\n", code), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="pipes as on POSIX")
def test_a_reader_that_goes_away_is_no_error(tmp_path):
    done = python(
        """
        import os, sys
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
        import nncjit
        nncjit.verify = lambda *args, **kwargs: type("Report", (), {"to_dict": lambda self: {}})()
        from nncjit.cli.main import main
        sys.exit(main(["verify", "x.nnc", "--json"]))
        """,
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_python_dash_m_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nncjit", "verify", "none.nnc"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.lower() == "nncjit: error: none.nnc: no such file or directory\n"


def test_json_is_one_object(monkeypatch, capsys):
    report = type("Report", (), {"to_dict": lambda self: {"weights": 3}})()
    monkeypatch.setattr(nncjit, "verify", lambda *args, **kwargs: report, raising=False)
    assert main(["verify", "x.nnc", "--json"]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"weights": 3}, "")
