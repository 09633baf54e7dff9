"""Where training keeps its checkpoints, outside the repository."""
from __future__ import annotations

import os
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "semantic-guidance" / "sticker_world"
