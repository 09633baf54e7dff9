"""The rows of the demo's sheet: a method each, on a prompt where its effect is seen and is typical."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from comfy_client import Graph

STEPS = 12
Shown = tuple[str, str, str]  # the node whose picture is shown, a caption, a note


class Row(NamedTuple):
    """One method. `words`: what its node is told; `measured`: how often it helps."""

    title: str
    node: str
    prompt: str
    words: str
    seed: int
    build: Callable[[Graph, Row], list[Shown]]
    measured: str = ""
    cfg: float | None = None  # None: as the model's pictures are usually made


def subjects(prompt: str) -> str:
    """"a cat and a red balloon" -> "cat, red balloon"."""
    parts = re.split(r",| and | with ", prompt)
    return ", ".join(re.sub(r"^(?:an?|the) ", "", part.strip()) for part in parts)


def base(row: Row) -> Graph:
    """Loader, prompts and latent."""
    return {
        "loader": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": ""}},
        "positive": _node("SemanticGuidancePrompt", clip=["loader", 1], text=row.prompt),
        "negative": _node("CLIPTextEncode", clip=["loader", 1], text=""),
        "latent": _node("EmptyLatentImage", width=512, height=512, batch_size=1),
    }


def _node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def _sample(graph: Graph, row: Row, name: str, model: list, positive: list) -> None:
    """A picture `name` of this model, saved as "save_" + name."""
    graph[f"{name}_latent"] = _node(
        "KSampler", model=model, positive=positive, negative=["negative", 0], latent_image=["latent", 0], seed=row.seed,
        steps=STEPS, cfg=row.cfg or 7.5, sampler_name="dpmpp_2m", scheduler="karras", denoise=1.0,
    )
    graph[name] = _node("VAEDecode", samples=[f"{name}_latent", 0], vae=["loader", 2])
    _save(graph, name, [name, 0])


def _save(graph: Graph, name: str, picture: list) -> None:
    graph[f"save_{name}"] = _node("PreviewImage", images=picture)


def _words(graph: Graph, row: Row, of: str) -> list[Shown]:
    """Where the model sees the row's first two words in the picture `of`."""
    graph["words"] = _node(
        "SemanticGuidanceWordMask", model=["loader", 0], conditioning=["positive", 0], latent=[f"{of}_latent", 0],
        words=row.words, image=[of, 0],
    )
    _save(graph, "words", ["words", 1])
    return [("words", f'"{word.strip()}"', "where the model sees it") for word in row.words.split(",")[:2]]


def _plain(graph: Graph, row: Row) -> Shown:
    _sample(graph, row, "plain", ["loader", 0], ["positive", 0])
    return "plain", "without", "cfg 1" if row.cfg == 1 else "plain CFG"


def excite(graph: Graph, row: Row) -> list[Shown]:
    without = _plain(graph, row)
    graph["excite"] = _node("SemanticGuidanceAttendExcite", model=["loader", 0], words=row.words, max_refinements=5)
    _sample(graph, row, "with", ["excite", 0], ["positive", 0])
    return [without, ("with", "with", f"words: {row.words}"), *_words(graph, row, "with")]


def sega(graph: Graph, row: Row) -> list[Shown]:
    without = _plain(graph, row)
    shown = [without]
    graph["edit"] = _node("CLIPTextEncode", clip=["loader", 1], text=row.words)
    for scale in (5.0, 10.0, 20.0):
        name = f"scale{scale:g}"
        graph[f"concept_{name}"] = _node("SemanticGuidanceConcept", conditioning=["edit", 0], edit_guidance_scale=scale)
        graph[f"sega_{name}"] = _node("SemanticGuidanceSEGA", model=["loader", 0], concepts=[f"concept_{name}", 0])
        _sample(graph, row, name, [f"sega_{name}", 0], ["positive", 0])
        shown.append((name, f'"{row.words}" added', f"edit scale {scale:g}"))
    return shown


def scfg(graph: Graph, row: Row) -> list[Shown]:
    without = _plain(graph, row)
    graph["scfg"] = _node("SemanticGuidanceSCFG", model=["loader", 0])
    _sample(graph, row, "with", ["scfg", 0], ["positive", 0])
    graph["regions"] = _node(
        "SemanticGuidanceRegionPreview", regions=["scfg", 1], latent=["with_latent", 0], image=["with", 0],
        step=STEPS // 2,
    )
    _save(graph, "regions", ["regions", 0])
    _save(graph, "rates", ["regions", 2])
    return [without, ("with", "with", "a scale for each region"), ("regions", "the regions the model drew", ""),
            ("rates", "how strongly each was guided", "1 is plain CFG")]


def word_mask(graph: Graph, row: Row) -> list[Shown]:
    without = _plain(graph, row)
    shown = [("plain", "the picture", without[2]), *_words(graph, row, "plain")]
    graph["mask_image"] = _node("MaskToImage", mask=["words", 0])
    _save(graph, "mask", ["mask_image", 0])
    return [*shown, ("mask", f'MASK of "{row.words.split(",")[0]}"', "for any node that takes one")]


def keep_apart(graph: Graph, row: Row) -> list[Shown]:
    without = _plain(graph, row)
    graph["apart"] = _node("SemanticGuidanceKeepApart", model=["loader", 0], words=row.words)
    _sample(graph, row, "with", ["apart", 0], ["positive", 0])
    return [without, ("with", "with", f"words: {row.words}"), *_words(graph, row, "with")]


def word_strength(graph: Graph, row: Row) -> list[Shown]:
    shown = []
    for strength in (0.0, 1.0, 2.0, 4.0):
        name = f"strength{strength:g}"
        graph[f"{name}_node"] = _node(
            "SemanticGuidanceWordStrength", model=["loader", 0], conditioning=["positive", 0], words=row.words,
            strength=strength, clip=["loader", 1],
        )
        _sample(graph, row, name, [f"{name}_node", 0], [f"{name}_node", 1])
        shown.append((name, f"{row.words}: {strength:g}", "as it is" if strength == 1 else ""))
    return shown


ROWS = {
    "excite": Row("A forgotten subject is found", "Attend-and-Excite", "a bird and an orange balloon",
                  "bird, orange balloon", 901, excite, "Both are there: 64.1 % without, 78.1 % with it (192 pictures)"),
    "apart": Row("At cfg 1, two subjects keep apart", "Keep Apart", "a gray backpack and an orange bowl",
                 "gray backpack, orange bowl", 901, keep_apart,
                 "Both in their colours: 24.2 % without, 31.7 % with it (120 pictures)", cfg=1.0),
    "strength": Row("One word weaker or stronger", "Word Strength", "a cat and a red balloon", "red", 5, word_strength),
    "sega": Row("One thing is changed and the rest stays", "SEGA", "a balloon", "a red balloon", 5, sega,
                "Recoloured at edit scale 20: 62.5 % of 32 pictures, the sticker still there in 87.5 %"),
    "mask": Row("A word becomes a mask", "Word Mask", "a cat and a red balloon", "cat, red balloon", 5, word_mask,
                "The peak lies on the sticker in 0.995 of scenes with one, 0.983 with two"),
    "scfg": Row("Each region has a scale of its own", "S-CFG", "a lion and a blue car", "lion, blue car", 5, scfg,
                "All is there: 73.6 % without, 76.1 % with it, at the same effective cfg (553 pictures)"),
}
