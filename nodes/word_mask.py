from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui

from ..drawing import heat_map, tiled
from ..guidance.attention_maps import COMPLETIONS, Completion
from ..guidance.word_map import contrast, soft_mask
from ..sampling.word_mask import NODE, WordMap, word_maps
from ..words.phrases import split_phrases
from .checks import checked
from .inputs import COMPLETION_TOOLTIP, MAP_SCALES, ONE_GRID
from .pictures import gallery, picture_name, pictures_behind
from .sockets import CATEGORY

log = logging.getLogger(__name__)
UNIFORM = 0.05  # contrast below which a map is called nearly uniform


class SemanticGuidanceWordMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SemanticGuidanceWordMask",
            display_name="Word Mask",
            category=CATEGORY,
            description="Shows where the model sees words of a prompt in a latent, after one pass of the model: a "
            "mask for each word, for inpainting or regional prompts, and a heat map to look at.",
            search_aliases=["attention map", "cross attention", "daam", "heat map", "mask from text", "token mask",
                            "segment word", "semantic guidance"],
            inputs=[
                io.Model.Input("model", tooltip="The model that looks. The help says which models work."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The prompt that describes the latent. Encode it with Prompt with Words.",
                ),
                io.Latent.Input(
                    "latent", tooltip="The picture to look at: a sampled latent, or VAE Encode's. Clips work as well."
                ),
                io.String.Input(
                    "words", default="",
                    tooltip="Words or phrases of the prompt, separated by commas: cat, red balloon. Token numbers "
                    "such as #5 work too, with any text encoding node.",
                ),
                io.Float.Input(
                    "noise_level", default=0.2, min=0.0, max=1.0, step=0.01, round=0.001,
                    tooltip="How much noise is added before the model looks, as a share of its noise schedule. "
                    "1 is pure noise, so that the model sees what it would start to draw.",
                ),
                io.Combo.Input(
                    "mask", options=["soft", "hard"], default="soft",
                    tooltip="Soft goes from 0 to 1. Hard is 0 or 1, decided by threshold.",
                ),
                io.Float.Input(
                    "threshold", default=0.5, min=0.0, max=1.0, step=0.01, round=0.001,
                    tooltip="A hard mask covers what reaches this share of the soft mask's maximum.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, advanced=True, tooltip="Seed of the noise."
                ),
                io.Combo.Input(
                    "completion", options=list(COMPLETIONS), default="power series", advanced=True,
                    tooltip=COMPLETION_TOOLTIP,
                ),
                io.Combo.Input(
                    "map_scale", options=list(MAP_SCALES), default="auto", advanced=True,
                    tooltip="The finest attention grid used, as a share of the latent's size; the next coarser one is "
                    "used as well. 'auto' is 1/2, which found words best where the truth is known. " + ONE_GRID,
                ),
                io.Image.Input(
                    "image", optional=True,
                    tooltip="The decoded picture. Masks take its size, and heat maps are laid over it. Of a clip, all "
                    "decoded frames.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks",
                    tooltip="One mask per word: all latents of the batch for the first word, then for the second. A "
                    "clip has one for each frame of its latent, which the VAE decodes to several frames of video: in "
                    "Wan the first to 1, each of the others to 4.",
                ),
                io.Image.Output(display_name="heat maps", tooltip="One picture per mask, in the same order."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model, conditioning, latent, words: str, noise_level: float, mask: str, threshold: float, seed: int,
        completion: Completion, map_scale: str, image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        scale = MAP_SCALES[map_scale]
        maps = word_maps(model, conditioning, latent, split_phrases(words), noise_level, completion, scale, seed)
        size = _picture_size(model, maps[0]) if image is None else tuple(image.shape[1:3])
        soft = torch.cat([soft_mask(seen.attention, seen.share, size).flatten(0, -3) for seen in maps])
        masks = soft if mask == "soft" else (soft >= threshold).float()
        drawing = _Drawing(maps, size, image)
        heat = drawing.pictures()
        return io.NodeOutput(masks, heat, ui=ui.PreviewImage(drawing.clips() or heat, cls=cls))


def _picture_size(model, seen: WordMap) -> tuple[int, int]:
    """Height and width of the latent's picture."""
    height, width = seen.attention.shape[-2:]
    downscale = model.get_model_object("latent_format").spacial_downscale_ratio
    return downscale * height, downscale * width


class _Drawing:
    """Pictures [H, W, 3] of the attention that each word gets in each latent, on one scale. Flat maps are told."""

    def __init__(self, maps: list[WordMap], size: tuple[int, int], image: torch.Tensor | None):
        self.maps = maps
        self.size = size
        batch, *frames, _, _ = maps[0].attention.shape
        self.frames = frames[0] if frames else 1
        if image is None or self.frames > 1:
            self.behind = pictures_behind(image, batch, self.frames, NODE)
        else:
            self.behind = [image[number % len(image)] for number in range(batch)]
        self.scale = (
            min(float(seen.attention.min()) for seen in maps), max(float(seen.attention.max()) for seen in maps)
        )
        self.titles = [self._titles(seen) for seen in maps]

    def _titles(self, seen: WordMap) -> list[str]:
        flat = contrast(seen.attention, seen.share) < UNIFORM
        if flat.any():
            log.warning('%s: the map of "%s" is nearly uniform, so its mask means little. The model may not see it.',
                        NODE, seen.phrase)
        return [f"{seen.phrase} (nearly uniform)" if is_flat else seen.phrase for is_flat in flat.tolist()]

    def pictures(self) -> torch.Tensor:
        """One for each word, latent and latent frame."""
        return gallery(
            (
                self._picture(frame, behind, ", ".join(filter(None, (title, picture_name(number, 1, self.frames)))))
                for seen, titles in zip(self.maps, self.titles, strict=True)
                for clip, title in enumerate(titles)
                for number, (frame, behind) in enumerate(self._frames(seen, clip))
            ),
            len(self.maps) * len(self.behind),
        )

    def clips(self) -> list[torch.Tensor]:
        """For each word and clip, all its frames in one picture; [] where there are no clips."""
        if self.frames == 1:
            return []
        sheets = []
        for seen, titles in zip(self.maps, self.titles, strict=True):
            for clip, title in enumerate(titles):
                frames, behind = zip(*self._frames(seen, clip), strict=True)
                image = None if behind[0] is None else tiled(torch.stack(behind))
                sheets.append(heat_map(tiled(torch.stack(frames)), image, title, self.scale))
        return sheets

    def _frames(self, seen: WordMap, clip: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """The attention [h, w] in each frame of a clip, and the picture behind it."""
        attention = seen.attention[clip].reshape(-1, *seen.attention.shape[-2:])
        return list(zip(attention, self.behind[clip * self.frames : (clip + 1) * self.frames], strict=True))

    def _picture(self, attention: torch.Tensor, behind: torch.Tensor | None, title: str) -> torch.Tensor:
        if behind is None:
            attention = F.interpolate(attention[None, None], self.size, mode="bilinear")[0, 0]
        return heat_map(attention, behind, title, self.scale)


NODES = [SemanticGuidanceWordMask]
