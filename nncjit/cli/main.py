"""The command ``nncjit``: finds the verb, runs it, and turns every failure into one line and an exit code.

It uses argparse rather than a command-line framework: argparse is in the standard library and imports in a few
milliseconds, so ``nncjit --help`` answers at once. A verb's module is imported only when that verb is called, and
imports NumPy or Numba only when it runs.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import NoReturn

from nncjit import __version__
from nncjit.cli.text import printable
from nncjit.errors import BitstreamError, NncError, NncWarning, OptionError

VERBS = {
    "compress": "make a model file small",
    "decompress": "get the model back from an .nnc file",
    "inspect": "show what an .nnc file holds, without decoding it",
    "verify": "decode everything and check all that can be checked",
    "demo": "compress a small real network and see what it costs",
    "eval": "see how small a model can get, and what it costs",
    "profile": "see where time, bytes and memory go",
    "warmup": "compile the kernels now, so that the first run is fast",
}
"""Verb -> what it does. The verb's module, ``nncjit.cli.VERB``, has ``configure(parser)`` and ``run(args)``."""

BAD_INPUT, BAD_USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

HELP_COLUMN = 30

EPILOG = """\
exit code: 0 fine, 1 bad input, 2 bad usage, 130 interrupted
new here?  nncjit demo
"""


def build_parser(verb: str | None) -> ArgumentParser:
    """The parser of the whole command line, in which only `verb` (if it is one) knows its own arguments."""
    style = partial(RawDescriptionHelpFormatter, max_help_position=HELP_COLUMN)
    parser = ArgumentParser(
        prog="nncjit",
        description="Make trained neural networks small (ISO/IEC 15938-17) and open them fast.",
        epilog=EPILOG,
        formatter_class=style,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nncjit {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    for name, summary in VERBS.items():
        if name == verb:
            module = import_module(f"nncjit.cli.{name}")
            sub = verbs.add_parser(
                name,
                help=summary,
                description=module.__doc__,
                formatter_class=style,
                allow_abbrev=False,
            )
            module.configure(sub)
            sub.set_defaults(run=module.run)
        else:
            verbs.add_parser(name, help=summary, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; a usage that argparse refuses raises SystemExit(2)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a tensor's name may not fit the terminal's encoding
    argv = sys.argv[1:] if argv is None else argv
    verb = next((word for word in argv if not word.startswith("-")), None)
    args = build_parser(verb).parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", NncWarning)
            args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("nncjit: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our output has gone, as in `nncjit inspect ... | head`; suppress the error of the flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (NncError, OSError, MemoryError) as error:
        print(f"nncjit: error: {printable(_explain(error, args))}", file=sys.stderr)
        return BAD_USAGE if isinstance(error, OptionError) else BAD_INPUT
    return 0


def console() -> NoReturn:
    """Entry point of the command ``nncjit``."""
    # SIGTERM unwinds like Ctrl-C, so that unfinished files are removed
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in our code that Python would add."""
    print(f"nncjit: warning: {printable(str(message))}", file=sys.stderr)


def _explain(error: Exception, args: Namespace) -> str:
    """What went wrong, with the file concerned."""
    source = getattr(args, "source", None)
    if isinstance(error, BitstreamError) and source:
        return f"{source}: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"not enough memory {error}".strip()
    return str(error)
