"""The bar tells how far the work is, on terminals only."""

import io
import sys
import time

from nncjit.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_shows_share_name_and_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar("compress", quiet=False) as progress:
        time.sleep(0.15)
        progress(25, 100, "layer.1")
        time.sleep(0.15)
        progress(50, 100, "layer.2")
    shown = sys.stderr.getvalue()
    assert "compress:  50%" in shown
    assert "layer.2" in shown
    assert "00:00<00:00" in shown


def test_nobody_is_shown_nothing(monkeypatch):
    with progress_bar("compress", quiet=False) as progress:  # pytest's stderr is no terminal
        assert progress is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar("compress", quiet=True) as progress:
        assert progress is None
    assert not sys.stderr.getvalue()
