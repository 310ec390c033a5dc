"""``python -m nncjit``, the same as the command ``nncjit``."""

from nncjit.cli.main import console

console()
