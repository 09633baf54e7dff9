"""What nodes may change in attention, in words that hold for every model family.

A node subclasses Edit and installs it per forward with `edited` (weigh.py), from its run's `edit_forward`, in those
steps alone in which it changes something. For each layer and each cond that is its own it answers with a Change: groups
of text columns with a weight, parts of the picture that see other text than others, or both. Edits of several nodes are
merged: weights of a column multiply, and act within each part. Weights are exact, and for the picture's queries only; a
negative one turns the value of its tokens round. Columns count the tokens of the cond's own text, as the model is
called with it (`sampling.prompt_text`). Keys of another prompt are columns, too: put them behind the cond's own in its
processed c_crossattn, and give them a weight (0 where they must not act) or a part. Maps and owners cover what the
model is shown of the latent for this cond (`ActiveCond.view`), on any grid; [1, ...] for all images of the batch alike.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from .layouts import Grid, Layer


class ByOwner(NamedTuple):
    """One of a few weights for each place. On transformers with joint attention it costs nothing more than a constant.

    There, other places have other keys, with hard borders, and owners on the CPU spare a wait; elsewhere borders are
    soft, by the size of a cell of `owners`.
    """

    owners: Tensor  # int64 [B or 1, (T,) h, w], numbers of `weights`
    weights: tuple[float, ...]


Weight: TypeAlias = float | Tensor | ByOwner  # Tensor: a map [B or 1, (T,) h, w]


class Group(NamedTuple):
    columns: tuple[int, ...]
    weight: Weight


class Part(NamedTuple):
    """Some queries, and the only text that they see. Shares of the picture sum to 1 over all parts."""

    columns: tuple[int, ...]  # of the text
    share: Tensor | None = None  # [B or 1, (T,) h, w] on the CPU: of the picture's queries; None: it has none
    rows: tuple[int, ...] = ()  # joint attention: text columns whose own queries see this part, too
    seen: Tensor | None = None  # joint attention: bool like share, the places that the part's queries see; None: all


class Change(NamedTuple):
    length: int  # of the cond's text, before the host repeats it
    groups: tuple[Group, ...] = ()
    parts: tuple[Part, ...] = ()  # of one edit at most


class Site(NamedTuple):
    """Where attention is about to be computed for one cond."""

    uuid: Any  # the cond's
    layer: Layer
    number: int  # of the layer, in the order of execution,
    layers: int  # of so many
    grid: Grid  # frames, height, width
    images: int  # of the batch


class Edit:
    """What one node changes during one run, and what became of it."""

    def __init__(self, node: str):
        self.node = node
        self.acted: dict[Layer, str] = {}  # the layers in which it did, and how
        self.averages: dict[Layer, bool] = {}  # whether what computes a layer's attention is an average of values
        self.layers = 0  # of the model, once a forward was edited
        self.kept: dict[Any, Any] = {}  # what was made of the shares of parts; to be emptied where these change
        self.prompts: tuple[int, ...] = ()  # where those begin that are joined behind the conds' own text

    def change(self, site: Site) -> Change | None:
        """None: nothing here."""
        raise NotImplementedError
