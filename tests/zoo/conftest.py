"""The zoo and the trials on it are modules of ``bench/``, which is not installed: they are found beside ``tests/``.

The folder goes to the end of the search path, so that the installed package, not the one beside it, is tested.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
collect_ignore_glob = [] if (ROOT / "bench" / "zoo").is_dir() else ["test_*.py"]
sys.path.append(str(ROOT))
