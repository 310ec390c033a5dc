"""Draw the pictures of the documentation anew: ``python docs/make_figures.py [name ...]``; needs the extra ``plot``.

Each script in ``docs/figures`` draws the picture of its name. The same versions of Matplotlib and nncjit give the same
bytes.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

FIGURES = Path(__file__).resolve().parent / "figures"


def main() -> None:
    """Run the scripts that are named, or all."""
    sys.path.insert(0, str(FIGURES))
    for script in sorted(FIGURES.glob("[!_]*.py")):
        if not sys.argv[1:] or script.stem in sys.argv[1:]:
            print(f"{script.stem}.svg")
            runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
