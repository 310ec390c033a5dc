"""The command ``nncjit``: finds the verb, runs it, and turns every failure into one line and an exit code.

It uses argparse rather than a command-line framework: argparse is in the standard library and imports in a few
milliseconds, so ``nncjit --help`` answers at once. A verb's module is imported only when that verb is called, and
imports NumPy or Numba only when it runs.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import warnings
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from nncjit import __version__
from nncjit.cli.text import paragraphs, printable
from nncjit.errors import BitstreamError, ModelError, NncError, NncWarning, OptionError, did_you_mean

VERBS = {
    "compress": "make a model file small",
    "calibrate": "learn from texts what matters in a model",
    "decompress": "get the model back from an .nnc file",
    "update": "write what leads from one model to the next",
    "apply": "make the next model of a base and updates",
    "inspect": "show what an .nnc file holds, without decoding it",
    "diff": "compare two models tensor by tensor",
    "report": "write a page about an .nnc file for a browser",
    "verify": "decode everything and check all that can be checked",
    "status": "show how far a job of several files is",
    "demo": "compress a small real network and see what it costs",
    "eval": "see how small a model can get, and what it costs",
    "profile": "see where time, bytes and memory go",
    "completion": "print a script that completes words in a shell",
    "warmup": "compile the kernels now, so that the first run is fast",
}
"""Verb -> what it does. The verb's module, ``nncjit.cli.VERB``, has ``configure(parser)`` and ``run(args)``."""

BAD_INPUT, BAD_USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

FRONT = ("-q", "--quiet", "--json")
"""Options that may come before the verb."""

HELP_COLUMN = 30

EPILOG = """\
exit code: 0 fine, 1 bad input, 2 bad usage, 130 interrupted
new here?  nncjit demo
"""


class OneLineParser(ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        say(f"error: {message}; {self.prog} --help explains")
        sys.exit(BAD_USAGE)


def build_parser(verb: str | None) -> ArgumentParser:
    """The parser of the whole command line, in which only `verb` (if it is one) knows its own arguments."""
    style = partial(RawDescriptionHelpFormatter, max_help_position=HELP_COLUMN)
    parser = OneLineParser(
        prog="nncjit",
        usage="nncjit [-h] [--version] VERB ...",
        description="Make trained neural networks small (ISO/IEC 15938-17) and open them fast.",
        epilog=EPILOG,
        formatter_class=style,
        allow_abbrev=False,
    )
    parser.add_argument("-V", "--version", action="version", version=f"nncjit {__version__}")
    # The verbs are listed in the description: argparse's own list wraps the longest names.
    listed = "\n".join(f"{name:<{max(map(len, VERBS))}}  {summary}" for name, summary in VERBS.items())
    verbs = parser.add_subparsers(
        title="verbs", description=listed, prog="nncjit", help=SUPPRESS, metavar="VERB", dest="verb", required=True
    )
    for name in VERBS:
        if name == verb:
            module = import_module(f"nncjit.cli.{name}")
            sub = verbs.add_parser(
                name,
                description=paragraphs(module.__doc__ or ""),
                formatter_class=style,
                allow_abbrev=False,
            )
            module.configure(sub)
            sub.set_defaults(run=module.run)
        else:
            verbs.add_parser(name, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; a usage that argparse refuses raises SystemExit(2)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a tensor's name may not fit the terminal's encoding
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", NncWarning)
            args.run(args)
        _flush_output()
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our output has gone, as in `nncjit inspect ... | head`; suppress the error of the flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (NncError, OSError, MemoryError) as error:
        say(f"error: {_explain(error, args)}")
        return BAD_USAGE if isinstance(error, OptionError) else BAD_INPUT
    return 0


def console() -> NoReturn:
    """Entry point of the command ``nncjit``."""
    _open_standard_streams()
    for name in ("SIGTERM", "SIGHUP"):  # they unwind like Ctrl-C, so that unfinished files are removed
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    sys.exit(main())


def parse(argv: Sequence[str]) -> Namespace:
    """The arguments of a command line. ``-q`` and ``--json`` may also come before the verb.

    Raises
    ------
    SystemExit
        argparse cannot read it: one line on stderr says why, and which word may be meant.
    """
    if not argv:
        build_parser(None).print_help(sys.stderr)
        sys.exit(BAD_USAGE)
    at = next((k for k, word in enumerate(argv) if not word.startswith("-")), len(argv))
    verb = argv[at] if at < len(argv) else None
    front = [word for word in argv[:at] if word in FRONT]
    argv = [*(word for word in argv[:at] if word not in FRONT), *argv[at : at + 1], *front, *argv[at + 1 :]]
    parser = build_parser(verb)
    if verb is not None and verb not in VERBS:
        parser.error(f"there is no verb {verb!r}{did_you_mean(verb, VERBS)}")
    args, unknown = parser.parse_known_args(argv)
    if getattr(args, "rest", None) and not any(word.startswith("-") for word in unknown):
        # argparse ends a list that may be empty at the first option, whatever comes behind that
        setattr(args, args.rest, [*getattr(args, args.rest), *map(Path, unknown)])
        unknown = []
    if unknown:
        known = options_of(verb or "")
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        what = "option" if word.startswith("-") else "argument"
        parser.prog = f"nncjit {verb}"
        parser.error(f"{verb} has no {what} {word}{did_you_mean(word.partition('=')[0], known)}")
    return args


def options_of(verb: str) -> list[str]:
    """The options of a verb, as its help names them."""
    caught = io.StringIO()
    with suppress(SystemExit), redirect_stdout(caught):
        build_parser(verb).parse_args([verb, "--help"])
    named = re.findall(r"^ +(--?[a-z][a-z-]*)(?:,? (?:[A-Z][^ ]*, )?(--[a-z-]+))?", caught.getvalue(), re.MULTILINE)
    return [option for row in named for option in row if option]


def say(text: str) -> None:
    """A line on stderr; nobody may be there to read it."""
    with suppress(OSError, ValueError, AttributeError):
        print(f"nncjit: {printable(text)}", file=sys.stderr, flush=True)


def _flush_output() -> None:
    """Give standard output what was printed, while an error can still be told."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ModelError(f"standard output: {(error.strerror or str(error)).lower()}") from error


def _open_standard_streams() -> None:
    """Where a caller has closed a standard stream, put the null device: else the next file would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line, without the place in our code that Python would add."""
    say(f"warning: {message}")


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
