# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What a run of registration left, for training and for anybody else: the map between any two volumes."""

from __future__ import annotations

import csv
import functools
import random
from collections.abc import Sequence
from pathlib import Path

from custom.registration.plan import Pair
from custom.registration.storage import load_transform
from custom.registration.transform import Transform, compose, invert
from custom.registration.volume import RegistrationError

__all__ = ["Registrations"]


class Registrations:
    """The finished registrations of a folder.

    Two volumes that were not registered with each other are joined through the template that both were registered
    to; nothing but the N maps to the template is stored for that.

    Args:
        folder: with "pairs.csv", which names the transforms relative to it, as the run left it.
        kept: how many transforms stay in memory.

    Raises:
        FileNotFoundError: there was no run, or it did not come to its end.
    """

    def __init__(self, folder: str | Path, kept: int = 64) -> None:
        self.folder = Path(folder)
        table = self.folder / "pairs.csv"
        if not table.is_file():
            raise FileNotFoundError(f"{table} is missing; run 'registration' to its end, or name its folder.")
        with table.open(newline="", encoding="utf-8") as file:
            self.rows = {Pair(row["fixed"], row["moving"]): row for row in csv.DictReader(file)}
        self._cases = list(dict.fromkeys(name for pair in self.rows for name in pair))
        self._template = {p.fixed: p.moving for p, row in self.rows.items() if "template" in row["roles"].split()}
        self._kept = kept
        self._load = functools.lru_cache(maxsize=kept)(load_transform)

    def __getstate__(self) -> dict:
        """For the processes of a data loader: each reads for itself."""
        return {name: value for name, value in vars(self).items() if name != "_load"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._load = functools.lru_cache(maxsize=self._kept)(load_transform)

    def usable(self, fixed: str, moving: str) -> bool:
        """Whether there is a map between two cases that is good enough for training."""
        return self._route(fixed, moving) is not None

    def between(self, fixed: str, moving: str, usable: bool = True) -> Transform:
        """From the points of one case to those of another: as registered, else composed through the template.

        Args:
            fixed, moving: ids. A case and itself are one and the same place.
            usable: False takes what was registered between the two even where it is marked unusable.

        Raises:
            RegistrationError: neither is there, or not usable; or no such case.
            StorageError: a file that was damaged since.
        """
        for name in (fixed, moving):
            if name not in self._cases:
                known = f"{', '.join(self._cases[:5])}{', ...' if len(self._cases) > 5 else ''}"
                raise RegistrationError(f"{name} is no case of {self.folder}; there are {known}.")
        if fixed == moving:
            return self._identity(fixed)
        if not usable and (pair := Pair(fixed, moving)) in self.rows:
            return self._stored(pair)
        route = self._route(fixed, moving)
        if route is None:
            raise RegistrationError(f"{fixed} and {moving} have no usable registration in {self.folder}.")
        parts = [invert(self._stored(pair)) if backward else self._stored(pair) for pair, backward in route]
        return functools.reduce(compose, parts)

    def _identity(self, name: str) -> Transform:
        for pair, row in self.rows.items():
            if name in pair and row["state"] != "failed":
                found = self._stored(pair)
                grid = found.fixed if name == pair.fixed else found.moving
                return Transform((), grid, grid)
        raise RegistrationError(f"{name} has no registration in {self.folder} that did not fail.")

    def atlases(self, fixed: str, usable: bool = True) -> list[tuple[str, float]]:
        """The labelled cases that were registered onto a case, with the similarity reached, the most similar first.

        Args:
            fixed: id.
            usable: False takes those marked unusable, too.
        """
        states = ("usable",) if usable else ("usable", "unusable")
        found = [
            (pair.moving, float(row["similarity_after"]))
            for pair, row in self.rows.items()
            if pair.fixed == fixed and "atlas" in row["roles"].split() and row["state"] in states
        ]
        return sorted(found, key=lambda atlas: -atlas[1])

    def partners(self, cases: Sequence[str], count: int = 5, seed: int = 0) -> dict[str, list[str]]:
        """For each case up to ``count`` of the others, all with a usable map to them.

        First those that it was registered with itself, the most similar first. The rest, reached through the template,
        are drawn at random: nothing is known of how alike they are, and no case becomes the partner of all.

        Args:
            cases: ids.
            count: at most, of each.
            seed: of the draw, which depends on it, the case and the list alone.
        """
        chosen = {}
        for fixed in cases:
            others = [name for name in cases if name != fixed and self.usable(fixed, name)]
            random.Random(f"{seed} {fixed}").shuffle(others)
            chosen[fixed] = sorted(others, key=lambda name: -self._similarity(Pair(fixed, name)))[:count]
        return chosen

    def _similarity(self, pair: Pair) -> float:
        """What a registration reached; below all of them for two cases that were not registered with each other."""
        return float(self.rows[pair]["similarity_after"]) if self._is_usable(pair) else -float("inf")

    def _route(self, fixed: str, moving: str) -> list[tuple[Pair, bool]] | None:
        """Pairs to go through, and whether backward; None where there is no way."""
        if self._is_usable(Pair(fixed, moving)):
            return [(Pair(fixed, moving), False)]
        template = self._template.get(fixed, fixed)
        if fixed == moving or template != self._template.get(moving, moving):
            return None
        route = []
        if fixed != template:
            route.append((Pair(fixed, template), False))
        if moving != template:
            route.append((Pair(moving, template), True))
        return route if all(self._is_usable(pair) for pair, _ in route) else None

    def _is_usable(self, pair: Pair) -> bool:
        return pair in self.rows and self.rows[pair]["state"] == "usable"

    def _stored(self, pair: Pair) -> Transform:
        return self._load(self.folder / self.rows[pair]["transform"])
