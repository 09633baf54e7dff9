"""The browser of the browser tests. dev.py reads this, too, so it needs nothing but Python."""

from __future__ import annotations

import os
import shutil

MISSING = (
    "no Chromium is installed. Install one (Debian: apt-get install chromium) or name one in CHROMIUM_PATH; then run "
    "python dev.py test browser"
)


def chromium() -> str | None:
    """CHROMIUM_PATH, or what is installed; None where there is none."""
    return os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("google-chrome")
