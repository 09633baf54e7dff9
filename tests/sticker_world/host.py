"""Set the host up for use as a library: on the CPU where there is no GPU. Import this before anything of the host's."""
from __future__ import annotations

import comfy.cli_args
import torch

if not torch.cuda.is_available():
    comfy.cli_args.args.cpu = True
