"""The page about a file, looked at in a real browser where there is one: what it shows, finds and sorts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

import nncjit
from nncjit.report import tensor_page
from nncjit.report.tensor_page import write_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RNG = np.random.default_rng(0)
HOSTILE = '</script><img src=x onerror="document.title=1">'

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium")


@pytest.fixture(scope="module")
def model():
    return {
        "encoder.weight": RNG.standard_normal((80, 60), dtype=np.float32),
        "encoder.bias": RNG.standard_normal(80, dtype=np.float32),
        "table": RNG.integers(0, 9, (50, 10)),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.float32(3),
        "nan": np.array([1, np.nan, np.inf], np.float32),
        "constant": np.full(300, 0.25, np.float32),
        HOSTILE: np.ones((4, 4), np.float32),
    }


@pytest.fixture(scope="module")
def page(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.warns(nncjit.NncWarning, match="nan"):
        nncjit.compress(model, folder / "m.nnc", snr=20, metadata={"made": HOSTILE})
    write_page(folder / "m.nnc", folder / "m.html", against=model)
    return folder / "m.html"


def seen(page, state="", width=1200):
    """The page as the browser has built it."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},1400", "--dump-dom"]
    command += ["--virtual-time-budget=4000", f"{page.as_uri()}#{state}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "data-ready=" in done.stdout, done.stderr[-2000:]
    return done.stdout


class Elements(HTMLParser):
    """The names of the table's rows, and all kinds of elements."""

    def __init__(self, dom):
        super().__init__()
        self.rows, self.kinds, self._in_row = [], set(), False
        self.feed(dom)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.kinds.add(tag)
        if self._in_row:
            self.rows.append(attributes["title"])
        self._in_row = attributes.get("role") == "option"


def rows(dom):
    """The first cells of the table's rows."""
    return Elements(dom).rows


def test_it_is_one_file_with_all_figures_and_no_address(page, model):
    text = page.read_text("utf-8")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    figures = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [row["name"] for row in figures["tensors"]] == list(model)
    found = {row["name"]: row for row in figures["tensors"]}
    assert found["encoder.weight"]["snr"] == pytest.approx(20, abs=1)
    assert found["table"]["exact"]
    assert found["nan"]["non_finite"] == 2
    assert found["encoder.weight"]["step"] > 0
    assert len(found["encoder.weight"]["hist"]) == 2 * tensor_page.BINS
    assert figures["snr"] == pytest.approx(20, abs=1)


def test_without_the_original_nothing_is_said_of_losses(page, tmp_path):
    figures = write_page(page.with_suffix(".nnc"), tmp_path / "p.html")
    assert not figures["against"]
    assert all("snr" not in row for row in figures["tensors"])


def test_it_takes_a_model_file_too(model, tmp_path):
    np.savez(tmp_path / "m.npz", **{name: array for name, array in model.items() if name != HOSTILE})
    assert len(write_page(tmp_path / "m.npz", tmp_path / "m.html")["tensors"]) == len(model) - 1


def test_wrong_names_are_refused(page, tmp_path):
    for target in (tmp_path / "p.txt", 5, "p"):
        with pytest.raises(nncjit.OptionError, match=r"\.html"):
            write_page(page.with_suffix(".nnc"), target)
    with pytest.raises(nncjit.ModelError):
        write_page(tmp_path / "none.nnc", tmp_path / "p.html")


@needs_browser
def test_a_browser_shows_every_tensor_and_runs_no_code_from_names(page, model):
    dom = seen(page)
    assert rows(dom) == list(model)
    assert "<title>" in dom
    assert "img" not in Elements(dom).kinds
    assert "nncjit report</title>" in dom
    assert "Least exact" in dom
    assert "20.0 dB" in dom or "20.1 dB" in dom or "19.9 dB" in dom


@needs_browser
def test_search_sorting_and_choice(page):
    assert rows(seen(page, "find=enc wei")) == ["encoder.weight"]
    assert rows(seen(page, "find=int64")) == ["table"]
    sizes = rows(seen(page, "sort=bytes"))
    assert sizes[0] == "encoder.weight"
    assert rows(seen(page, "sort=bytes&down=no"))[-1] == "encoder.weight"
    assert "levels (values in steps)" in seen(page, "tensor=encoder.weight")


@needs_browser
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_light_dark_and_phone(page, theme, width, tmp_path):
    assert f'data-theme="{theme}"' in seen(page, f"theme={theme}", width)


@needs_browser
def test_twenty_thousand_tensors_are_there_at_once(tmp_path):
    figures = {
        "source": "large.nnc", "against": True, "bytes": 10**9, "original_bytes": 10**10, "weights": 10**9, "snr": 30.0,
        "exact": False, "metadata": {}, "facts": [], "tensors": [
            {"name": f"model.layers.{k // 8}.part{k % 8}.weight", "shape": [100, 500], "dtype": "bfloat16",
             "tools": "trellis", "bytes": 50_000 + k, "weights": 50_000, "low": -1, "high": 1, "hist": "7f" * 32,
             "step": 0.01, "levels": "7f" * 25, "zeros": 0.1, "snr": 30 + k % 7, "exact": False, "largest": 0.01}
            for k in range(20_000)
        ],
    }  # fmt: skip
    template = (tensor_page.resources.files("nncjit.report") / tensor_page.TEMPLATE).read_text("utf-8")
    (tmp_path / "large.html").write_text(template.replace(tensor_page.DATA, json.dumps(figures)), "utf-8")
    dom = seen(tmp_path / "large.html", "sort=bytes")
    shown = rows(dom)
    assert shown[0] == "model.layers.2499.part7.weight"
    assert 10 < len(shown) < 60  # only rows in sight are built
    assert "20,000 tensors" in dom
    assert 'data-parts="2500 of 2500"' in dom  # the map shows layers, since there are too many tensors
