"""What Keep Apart changes in attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...attention_hooks.edits import ByOwner, Change, Edit, Group, Site
from ...guidance.ownership import weights_apart
from .maps import SubjectText
from .settings import NODE, Settings

FIRST_THIRD = 3  # 1 / this of the layers is computed before a first step's own maps are used


class KeepApartEdit(Edit):
    """All subjects' words count `emphasis` times, and less where another subject owns the place."""

    def __init__(self, settings: Settings):
        super().__init__(NODE)
        self.settings = settings
        self.begin({}, {})

    def begin(
        self, texts: Mapping[Any, SubjectText], owners: Mapping[Any, Tensor],
        seen: Callable[[Any], Tensor | None] | None = None,
    ) -> None:
        """What holds from here on. owners: by the uuid of the cond; seen: those that the evaluation itself shows."""
        self.texts = texts
        self.owners = owners
        self._seen = seen

    def change(self, site: Site) -> Change | None:
        text = self.texts.get(site.uuid)
        if text is None:
            return None
        owners = self.owners.get(site.uuid)
        if self._seen is not None and site.number >= site.layers // FIRST_THIRD:
            owners = self._seen(site.uuid)
        groups = []
        for subject, columns in enumerate(text.columns):
            if columns and self.settings.emphasis != 1:
                groups.append(Group(columns, self.settings.emphasis))
            if columns and owners is not None and self.settings.strength:
                weights = weights_apart(subject, len(text.columns), self.settings.strength)
                groups.append(Group(columns, ByOwner(owners, weights)))
        return Change(text.length, tuple(groups)) if groups else None
