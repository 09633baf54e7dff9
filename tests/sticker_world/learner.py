"""Learning in bf16: float32 weights that learn, with their running mean, and the bf16 copies that compute."""
from __future__ import annotations

import math
from pathlib import Path

import torch

from .parallel import average

EMA = 0.999
WARM_UP = 200


class Learner:
    """Trains `parameters`, which compute in whatever dtype they have, through float32 copies of them.

    `initial`: their float32 values. rate: the highest learning rate, reached after a warm-up, then cosine to 2 % of it.
    hidden: which of them are matrices within the network; these learn by Muon, all others by AdamW.
    """

    def __init__(
        self, parameters: list[torch.nn.Parameter], initial: list[torch.Tensor], steps: int, rate: float,
        hidden: list[bool] | None = None,
    ):
        self.compute, self.steps, self.rate, self.step = parameters, steps, rate, 0
        self.master = [value.detach().clone().float() for value in initial]
        self.mean = [value.clone() for value in self.master]
        hidden = hidden or [False] * len(parameters)
        matrices, others = ([p for p, inside in zip(self.master, hidden, strict=True) if inside is kind]
                            for kind in (True, False))
        self.optimizers = [torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            self.optimizers.append(muon)

    def learning_rate(self) -> float:
        if self.step < WARM_UP:
            return self.rate * (self.step + 1) / WARM_UP
        progress = (self.step - WARM_UP) / (self.steps - WARM_UP)
        return self.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))

    def learn(self) -> None:
        """One step along the gradients that the parameters hold, averaged over all processes."""
        for master, parameter, gradient in zip(
            self.master, self.compute, average([p.grad for p in self.compute]), strict=True
        ):
            master.grad = gradient
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.learning_rate()
            optimizer.step()
        self.step += 1
        torch._foreach_lerp_(self.mean, self.master, 1 - min(EMA, (1 + self.step) / (10 + self.step)))
        with torch.no_grad():
            torch._foreach_copy_(self.compute, self.master)

    def state(self) -> dict:
        return {"step": self.step, "master": self.master, "mean": self.mean,
                "optimizers": [one.state_dict() for one in self.optimizers]}

    def load(self, state: dict) -> None:
        self.step = state["step"]
        with torch.no_grad():
            torch._foreach_copy_(self.master, state["master"])
            torch._foreach_copy_(self.compute, state["master"])
            torch._foreach_copy_(self.mean, state["mean"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def save(value: object, path: Path) -> None:
    """Write `path` whole or not at all."""
    torch.save(value, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
