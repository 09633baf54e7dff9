"""ComfyUI as a process of its own, with the pack and Sticker World installed, headless and on a local port.

`python -m comfy_server [--port N]` leaves one running until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
from contextlib import contextmanager
from pathlib import Path

import torch
from comfy_client import ComfyClient
from paths import COMFYUI, ROOT, TESTS

CUSTOM_NODES = {"semantic-guidance": ROOT, "sticker_world": TESTS / "sticker_world"}
MODEL_PATHS = "model_paths.yaml"
BOOT_SECONDS = 300  # 7 on two idle cores; the first start on a busy machine can take minutes
NOT_COPIED = shutil.ignore_patterns(".dev", ".git", "demo", "__pycache__")


class ServerError(Exception):
    """The server could not be started, or died."""


@contextmanager
def comfy_server(
    base: Path | None = None, port: int | None = None, checkpoints: Path | None = None,
    custom_nodes: dict[str, Path] = CUSTOM_NODES,
):
    """A ComfyClient of a server that is ready, and gone afterwards.

    base: folder for models, inputs, outputs and settings, made if need be; a temporary one if None.
    port: a free one if None. ServerError if it is taken, or if the server does not come up.
    checkpoints: one more folder in which the checkpoint loader finds its files.
    custom_nodes: the packs, by the names of their folders.
    """
    if base is None:
        with tempfile.TemporaryDirectory(prefix="comfy-", ignore_cleanup_errors=True) as folder:
            with comfy_server(Path(folder), port, checkpoints, custom_nodes) as client:
                yield client
        return
    port = free_port(port)
    prepare(base, checkpoints, custom_nodes)
    with open(base / "server.log", "w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(command(base, port), cwd=base, stdout=log, stderr=subprocess.STDOUT)
        try:
            client = ComfyClient(f"http://127.0.0.1:{port}")
            wait_until_ready(client, process, base / "server.log")
            try:
                yield client
            except urllib.error.URLError as error:
                if process.poll() is None:
                    raise
                raise ServerError(f"ComfyUI ended in the middle. {end_of(base / 'server.log')}") from error
        finally:
            stop(process)


def command(base: Path, port: int) -> list[str]:
    flags = ["--base-directory", str(base), "--port", str(port), "--listen", "127.0.0.1"]
    flags += ["--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
    flags += ["--cache-classic"]  # what is kept does not depend on how much memory is free
    flags += ["--extra-model-paths-config", str(base / MODEL_PATHS)]
    if not torch.accelerator.is_available():
        flags.append("--cpu")
    return [sys.executable, str(COMFYUI / "main.py"), *flags]


def prepare(base: Path, checkpoints: Path | None, custom_nodes: dict[str, Path]) -> None:
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    for name, source in custom_nodes.items():
        link = base / "custom_nodes" / name
        if not (link.exists() and link.samefile(source)):
            remove(link)
            make_link(source, link)
    paths = {"demo": {"checkpoints": str(checkpoints)}} if checkpoints else {}
    (base / MODEL_PATHS).write_text(json.dumps(paths), encoding="utf-8")  # JSON is YAML


def make_link(source: Path, link: Path) -> None:
    """A link to a folder; on Windows a junction, which needs no rights; a copy where neither is possible."""
    try:
        if os.name == "nt":
            import _winapi

            _winapi.CreateJunction(str(source), str(link))
        else:
            link.symlink_to(source, target_is_directory=True)
    except OSError:
        shutil.copytree(source, link, ignore=NOT_COPIED)


def remove(link: Path) -> None:
    """Remove a link without what it points to, or a copy."""
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)


def free_port(wanted: int | None) -> int:
    with socket.socket() as probe:
        if os.name != "nt":  # elsewhere this allows a port just given up; there, one in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError as error:
            raise ServerError(f"port {wanted} is taken; without --port a free one is found") from error
        return probe.getsockname()[1]


def wait_until_ready(client: ComfyClient, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.get("/system_stats", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    what = "is not ready yet" if process.poll() is None else f"ended with code {process.returncode}"
    raise ServerError(f"ComfyUI {what}. {end_of(log)}")


def end_of(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(["The end of its log:", *lines[-25:]])


def stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def stop_on_terminate() -> None:
    """Let a polite kill of this process run its `finally` blocks, which end the server."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main() -> None:
    parser = argparse.ArgumentParser(prog="dev.py serve", description="Leave ComfyUI running.")
    parser.add_argument("--port", type=int, help="default: a free one")
    arguments = parser.parse_args()
    stop_on_terminate()
    print("Starting ComfyUI ...", flush=True)
    try:
        with comfy_server(ROOT / ".dev" / "base", arguments.port) as client:
            print(f"ComfyUI is running at {client.address} (Ctrl-C ends it)", flush=True)
            while True:
                time.sleep(3600)
    except ServerError as error:
        sys.exit(f"dev.py serve: {error}")
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
