"""Many pictures as one IMAGE: in bounded memory, with progress, and stopped when the user stops."""

from __future__ import annotations

from collections.abc import Iterator

from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.utils import ProgressBar
from torch import Tensor

from ..drawing import reduced

BUDGET = 512 * 2**20  # bytes of all pictures that a node returns; a full-size one with its legend has about 16 MiB


def gallery(pictures: Iterator[Tensor], count: int, budget: int = BUDGET) -> Tensor:
    """Draw `count` pictures [H, W, 3] of one size, each when its turn comes: [count, H', W', 3].

    Smaller than they were drawn where all of them would take more than `budget` bytes.
    """
    progress = ProgressBar(count)
    shown: Tensor | None = None
    for number, picture in enumerate(pictures):
        throw_exception_if_processing_interrupted()
        picture = reduced(picture, budget // count)
        shown = picture.new_empty((count, *picture.shape)) if shown is None else shown
        shown[number] = picture
        progress.update(1)
    assert shown is not None
    return shown


def picture_name(number: int, batch: int, frames: int) -> str:
    """What a title says of one of batch * frames pictures: nothing where there is only one."""
    clip, frame = divmod(number, frames)
    names = [f"{'image' if frames == 1 else 'clip'} {clip + 1} of {batch}"] if batch > 1 else []
    names += [f"frame {frame + 1} of {frames}"] if frames > 1 else []
    return ", ".join(names)


def pictures_behind(image: Tensor | None, batch: int, frames: int, node: str) -> list[Tensor | None]:
    """For each latent, or latent frame of each clip, the picture [H, W, C] to draw on; None for all without an image.

    image: [N, H, W, C], one for each latent. Clips decode to more frames than their latents have, the first and the
    last of them to the first and the last; each latent frame gets the decoded one at its place.
    """
    if image is None:
        return [None] * (batch * frames)
    decoded, rest = divmod(len(image), batch)
    if rest or decoded < frames or (frames == 1 and decoded > 1):
        latents = f"{batch} latents" if frames == 1 else f"{batch} clips of {frames} latent frames"
        raise ValueError(
            f"{node}: {len(image)} images for {latents}. Connect the images decoded from this latent, or none."
        )
    places = [frame * (decoded - 1) // max(frames - 1, 1) for frame in range(frames)]
    return [image[clip * decoded + place].cpu() for clip in range(batch) for place in places]
