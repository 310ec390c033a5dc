"""What the tests of the command line share."""

from __future__ import annotations

import pytest

from nncjit.cli.main import main


@pytest.fixture
def run(capsys):
    """Run a command line: exit code, standard output, standard error."""

    def run(line):
        try:
            code = main(line.split())
        except SystemExit as exited:
            code = exited.code
        return code, *capsys.readouterr()

    return run
