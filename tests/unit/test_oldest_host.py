"""A ComfyUI that is too old is told so in one sentence."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from paths import ROOT


def load_pack(monkeypatch, version: str) -> None:
    """Run the pack's __init__.py in a ComfyUI that is nothing but its version."""
    host = ModuleType("comfyui_version")
    host.__version__ = version
    monkeypatch.setitem(sys.modules, "comfyui_version", host)
    for name in ("comfy_api", "comfy_api.latest"):  # also where other tests have imported the host
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("pack_on_an_old_host", ROOT / "__init__.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("version", ["0.16.3", "0.3.64", "0.18.1", "0.18.1rc2", "0.17"])
def test_an_old_host_is_told_what_is_needed(monkeypatch, version):
    expected = f"Semantic Guidance needs ComfyUI 0.18.2 or newer; this is {version}. Update ComfyUI."
    with pytest.raises(ImportError, match=expected):
        load_pack(monkeypatch, version)


@pytest.mark.parametrize("version", ["0.18.2", "0.30.0", "1.0.0", "0.31.0rc1", "v0.31.0", "0.31", "0.30.0+local.2"])
def test_the_others_go_on_to_the_hosts_interface(monkeypatch, version):
    with pytest.raises(ImportError, match="comfy_api"):
        load_pack(monkeypatch, version)
