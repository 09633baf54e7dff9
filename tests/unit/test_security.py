"""What is shipped computes and draws. It starts nothing, fetches nothing, unpickles nothing and touches no file."""

from __future__ import annotations

import ast

import pytest
from paths import ROOT
from shipped import shipped

FILES = [path for path in shipped() if path.suffix == ".py"]
STANDARD = {
    "__future__", "collections", "contextlib", "copy", "dataclasses", "difflib", "functools", "inspect", "itertools",
    "logging", "math", "re", "sys", "types", "typing", "unicodedata", "uuid",
}  # fmt: skip
ALLOWED = STANDARD | {"torch", "numpy", "PIL", "comfy", "comfy_api", "comfyui_version"}
BUILTINS = {"eval", "exec", "compile", "open", "__import__", "globals", "input", "print", "breakpoint"}
# Of torch, numpy and PIL: files and foreign code. Of sys: ways to other modules, of which only a look is allowed.
ATTRIBUTES = {
    "load", "save", "savez", "savetxt", "tofile", "fromfile", "loadtxt", "memmap", "open", "show", "hub", "jit",
    "ops", "load_state_dict_from_url", "cpp_extension", "write_text", "write_bytes", "path", "meta_path", "settrace",
    "currentframe", "import_module", "__subclasses__", "__globals__", "__builtins__", "__code__", "f_globals",
}  # fmt: skip


def offences(source: str) -> list[str]:
    """Everything in a file that the shipped code must not do, as it is written there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [str(node.module)]
            found += [alias.name for alias in node.names if alias.name in ATTRIBUTES | {"modules"}]
        else:
            names = []
        found += [name for name in names if name.split(".")[0] not in ALLOWED]
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            found.append(node.id)
        if isinstance(node, ast.Attribute) and node.attr in ATTRIBUTES:
            found.append(ast.unparse(node))
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)) and "sys.modules" in ast.unparse(node):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_pack_touches_nothing_but_tensors(path):
    assert not offences((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')", "exec('x = 1')", "compile('1', '', 'eval')", "__import__('os')", "open('x', 'w')",
        "import pickle", "import subprocess", "import os\nos.system('ls')", "from os import system", "import socket",
        "import urllib.request", "import requests", "from http import client", "import importlib", "import ctypes",
        "import pathlib", "import torch\ntorch.load('x')", "from torch import load", "import numpy\nnumpy.save('x', 1)",
        "from PIL import Image\nImage.open('x')", "import torch\ntorch.hub.load('a', 'b')",
        "import torch.hub as h\nh.load('a')",
        "import sys\nsys.modules['json'] = None", "from sys import modules", "import sys\nsys.path.append('x')",
    ],
)  # fmt: skip
def test_each_offence_is_found(source):
    assert offences(source)
