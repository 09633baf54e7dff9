"""The subgraph blueprints, from the node search to their pictures on Sticker World."""

from __future__ import annotations

import pytest
from workflow_files import STICKER_WORLD_LOADER

PACK = "semantic-guidance"
LINK = """([source, output, target, input]) => {
  const find = title => app.graph.nodes.find(node => node.title === title);
  find(source).connect(output, find(target), find(target).findInputSlot(input));
}"""


def connect(user, source: str, output: int, target: str, entry: str) -> None:
    user.page.evaluate(LINK, [source, output, target, entry])


@pytest.fixture
def loader(user) -> str:
    """The title of a loader of Sticker World in the graph."""
    user.place(STICKER_WORLD_LOADER)
    return user.nodes()[0]["title"]


def add(user, loader: str, title: str) -> None:
    """Insert a blueprint from the node search and connect the loader to it."""
    user.take(user.search(title).filter(has_text="Blueprint").first)
    assert title in [node["title"] for node in user.nodes()]
    for output, entry in enumerate(("model", "clip", "vae")):
        connect(user, loader, output, title, entry)


def test_semantic_text_to_image(user, loader):
    title = "Semantic text to image"
    add(user, loader, title)
    preview = user.place("PreviewImage")
    connect(user, title, 0, preview, "images")
    user.on_sticker_world(prompt="a cat")
    assert user.run() == "execution_success"
    assert (preview, [128]) in user.pictures_shown(1)
    user.photograph("blueprint-image")
    assert user.console == [] and user.alerts() == []


def test_mask_by_word(user, loader):
    title = "Mask by word"
    add(user, loader, title)
    picture = user.place("EmptyImage")
    connect(user, picture, 0, title, "image")
    masks, heat = user.place("MaskPreview"), user.place("PreviewImage")
    connect(user, title, 0, masks, "mask")
    connect(user, title, 1, heat, "images")
    user.on_sticker_world(prompt="a cat and a dog", words="cat, dog")
    assert user.run() == "execution_success"
    shown = dict(user.pictures_shown(2))
    user.photograph("blueprint-mask")
    assert shown[masks] == [128, 128] and len(shown[heat]) == 2
    assert user.console == [] and user.alerts() == []
