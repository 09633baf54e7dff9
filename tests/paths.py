"""Where things lie, for tests and tools alike."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".dev" / "ComfyUI").resolve()


def use_host(device: str = os.environ.get("TEST_DEVICE", "cpu")) -> None:
    """Make the host's modules importable in this process, for this kind of device; before anything of `comfy` is.

    First on the path, because the host's `nodes.py` has the name of our folder.
    """
    if str(COMFYUI) not in sys.path:
        sys.path.insert(0, str(COMFYUI))
    from comfy.cli_args import args

    args.cpu = device == "cpu"
