"""Tiers, each runs alone: `python dev.py test lint | unit | host | server | browser | world`.

unit           no host: `guidance/` and other pure code, with torch alone.
host           tiny models of the host's own classes in this process, on the CPU (see paths.use_host).
server         a real ComfyUI as a process of its own, over HTTP.
browser        the same with its front end in a headless Chromium; skipped where there is none.
sticker_world  the small model that the demo and the quality benchmark run on.

The pack is imported as `semantic_guidance` (see semantic_guidance/__init__.py), in all of them.
"""

from __future__ import annotations

import signal

import pytest
from paths import ROOT


class PlainRoot:
    """The repository is a node pack with an `__init__.py`; pytest must not take it for a package of tests."""

    @staticmethod
    def pytest_collect_directory(path, parent):
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config):
    config.pluginmanager.register(PlainRoot())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the tests, and servers with them, as Ctrl-C does
