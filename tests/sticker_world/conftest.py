from __future__ import annotations

from paths import use_host

use_host()
