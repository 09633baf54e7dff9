"""What an example workflow's page is made of, and the groups that several share."""

from __future__ import annotations

from typing import NamedTuple


class Group(NamedTuple):
    name: str
    note: str
    nodes: list[str]


class App(NamedTuple):
    """What the front end shows of a workflow in app mode, in which it then opens."""

    inputs: list[tuple[str, str, str]]  # node, widget, and a name where the widget's own would not tell
    outputs: list[str]  # nodes


class Page(NamedTuple):
    title: str  # file name, and what the template browser shows
    models: list[dict[str, str]]  # for the front end's offer to download them
    groups: list[Group]
    shows: list[str]  # nodes whose pictures are on the thumbnail; none where it is in words
    app: App | None = None


SD15 = [{
    "name": "v1-5-pruned-emaonly-fp16.safetensors",
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
    "directory": "checkpoints",
}]
SDXL = [{
    "name": "sd_xl_base_1.0.safetensors",
    "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    "directory": "checkpoints",
}]

WHAT_IT_DID = Group(
    "4  What it did",
    "The regions are those the model itself drew at the chosen **step** (-1 is the last, 0 shows all). The second "
    "picture shows the rate at every place: 1 is plain CFG.",
    ["regions", "save_regions", "save_rates"],
)
WHAT_A_WORD_SEES = Group(
    "5  What a word sees",
    "One more forward pass shows where the model sees each word. The mask output works with every node that takes "
    "a MASK.",
    ["words", "save_words"],
)

PROMPT, WORDS, SEED = ("positive", "text", "prompt"), ("words", "words", ""), ("seed", "value", "seed")
