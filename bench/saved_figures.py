"""Where a bench's figures go: into the file that was named, or onto the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def save_or_print(found: Any, path: Path | None) -> None:
    """As JSON."""
    text = json.dumps(found, indent=1)
    if path:
        path.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
