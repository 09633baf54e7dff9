"""The pack under the name `semantic_guidance`, wherever its folder lies and whatever that is called.

`from semantic_guidance.guidance.scfg import ...` works in every test and tool, since pytest and dev.py put
`tests/` on the path. The pack's own `__init__.py`, which needs the host, is not run: unit tests need no host.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[2])]
