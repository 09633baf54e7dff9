"""What the host makes of prompts for the latent that it is about to sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from comfy.samplers import encode_model_conds, process_conds
from torch import Tensor

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider


class Processing(NamedTuple):
    """A run's guider, and what else the host processes its prompts with."""

    guider: CFGGuider
    noise: Tensor
    latent_image: Tensor
    denoise_mask: Tensor | None
    seed: int
    latent_shapes: Sequence[Sequence[int]]

    def conds(self, conds: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Conds as runs have them, with their places in the latent and the tensors that the model is called with."""
        return process_conds(
            self.guider.inner_model, self.noise, {"positive": conds}, self.noise.device, self.latent_image,
            self.denoise_mask, self.seed, latent_shapes=self.latent_shapes,
        )["positive"]

    def tensors(self, cond: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors alone that the model is called with, for a cond that has its place."""
        (done,) = encode_model_conds(
            self.guider.inner_model.extra_conds, [cond], self.noise, self.noise.device, "positive",
            latent_image=self.latent_image, denoise_mask=self.denoise_mask, seed=self.seed,
            latent_shapes=self.latent_shapes,
        )
        values = {name: getattr(item, "cond", None) for name, item in done["model_conds"].items()}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}
