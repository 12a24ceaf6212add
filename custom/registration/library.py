# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What a run of registration left, for training and for anybody else: the map between any two volumes."""

from __future__ import annotations

import csv
import functools
import math
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

    The map between two volumes is their own registration, or composed through one other volume that both were
    registered with: the way with the least inverse-consistency error, both steps added. On ACDC that is better than
    their own registration alone (see docs/results), and it joins volumes that were not registered with each other:
    with N maps to a template, the map between any two.

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
        self._ways: dict[str, dict[str, Pair]] = {name: {} for pair in self.rows for name in pair}
        for pair in sorted(self.rows, key=lambda pair: self._trouble((pair,))):
            if self.rows[pair]["state"] != "failed":
                self._ways[pair.fixed].setdefault(pair.moving, pair)
                self._ways[pair.moving].setdefault(pair.fixed, pair)
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
        return bool(route := self._route(fixed, moving)) and self._is_usable(route)

    def between(self, fixed: str, moving: str, usable: bool = True) -> Transform:
        """From the points of one case to those of another, see the class.

        Args:
            fixed, moving: ids. A case and itself are one and the same place.
            usable: False takes what is marked unusable, too, where there is nothing better.

        Raises:
            RegistrationError: there is no way, or none that is usable; or no such case.
            StorageError: a file that was damaged since.
        """
        for name in (fixed, moving):
            if name not in self._ways:
                known = f"{', '.join([*self._ways][:5])}{', ...' if len(self._ways) > 5 else ''}"
                raise RegistrationError(f"{name} is no case of {self.folder}; there are {known}.")
        if fixed == moving:
            return self._identity(fixed)
        route = self._route(fixed, moving)
        if not route or (usable and not self._is_usable(route)):
            raise RegistrationError(f"{fixed} and {moving} have no usable registration in {self.folder}.")
        maps = [(pair, self._load(self.folder / self.rows[pair]["transform"])) for pair in route]
        place, steps = fixed, []
        for pair, stored in maps:
            steps.append(stored if pair.fixed == place else invert(stored))
            place = pair.moving if pair.fixed == place else pair.fixed
        return functools.reduce(compose, steps)

    def _identity(self, name: str) -> Transform:
        for pair, row in self.rows.items():
            if name in pair and row["state"] != "failed":
                found = self._load(self.folder / row["transform"])
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

        First those that it was registered with itself, those with the least error first. The rest, reached through
        another one, are drawn at random, so that no case becomes the partner of all.

        Args:
            cases: ids.
            count: at most, of each.
            seed: of the draw, which depends on it, the case and the list alone.
        """
        chosen = {}
        for fixed in cases:
            others = [name for name in cases if name != fixed and self.usable(fixed, name)]
            random.Random(f"{seed} {fixed}").shuffle(others)
            own = [name for name in others if name in self._ways[fixed]]
            own.sort(key=lambda name: self._trouble((self._ways[fixed][name],)))
            chosen[fixed] = [*own, *(name for name in others if name not in own)][:count]
        return chosen

    def _route(self, fixed: str, moving: str) -> tuple[Pair, ...]:
        """The pairs to go through, one or two; none where there is no way."""
        first, last = self._ways.get(fixed, {}), self._ways.get(moving, {})
        routes = [(first[moving],)] if moving in first else []
        routes += [(first[name], last[name]) for name in first if name in last]
        return min(routes, key=self._trouble, default=())

    def _trouble(self, route: tuple[Pair, ...]) -> tuple[int, float, int]:
        """How many of its pairs are not usable; their errors in mm, as far as they were measured; their number."""
        rows = [self.rows[pair] for pair in route]
        errors = [float(row["inverse_error_mm"]) for row in rows]
        return sum(row["state"] != "usable" for row in rows), sum(e for e in errors if not math.isnan(e)), len(rows)

    def _is_usable(self, route: tuple[Pair, ...]) -> bool:
        return all(self.rows[pair]["state"] == "usable" for pair in route)
