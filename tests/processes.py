"""Commands as processes of their own. Our Ctrl-C and SIGTERM are theirs as well."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import NamedTuple, TextIO

STARTED: list[subprocess.Popen] = []  # for the signal that ends us
ENDED = (0, 1)  # what pytest returns when it came to its end: passed, failed


class Command(NamedTuple):
    words: list[str]
    environment: dict[str, str]
    folder: Path | None = None


def start(command: Command, output: TextIO | None = None) -> subprocess.Popen:
    """Start a command, which gets our Ctrl-C and our SIGTERM."""
    signal.signal(signal.SIGTERM, terminate)
    process = subprocess.Popen(
        command.words, cwd=command.folder, env=command.environment, stdout=output, stderr=output
    )
    STARTED.append(process)
    return process


def terminate(*_) -> None:
    for process in STARTED:
        process.terminate()


def wait(process: subprocess.Popen) -> int:
    """Its exit code."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass  # the child has had the Ctrl-C as well, and cleans up


def in_turn(tests: dict[str, Command], output: TextIO | None = None) -> int:
    """Run these tests one after the other, each under its title, but none after one that was stopped.

    0 where all have passed.
    """
    failed = 0
    for title, command in tests.items():
        print(f"\n{title}:", file=output, flush=True)
        code = wait(start(command, output))
        failed = code or failed
        if code not in ENDED:
            break
    return failed
