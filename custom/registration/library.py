# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What a run of registration left, for training and for anybody else: the map between any two volumes."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
from collections.abc import Collection, Sequence
from pathlib import Path

from custom.registration.plan import Pair
from custom.registration.record import PairResult
from custom.registration.storage import load_transform
from custom.registration.transform import Transform, compose, invert
from custom.registration.volume import RegistrationError
from custom.utils.json_files import read_json, read_table

__all__ = ["Registrations"]


class Registrations:
    """The finished registrations of a folder.

    The map between two volumes is their own registration, or composed through one other volume that both were
    registered with: the way with the least inverse-consistency error, that of two steps being the root of the sum of
    their squares. It joins volumes that were not registered with each other: with N maps to a template, the map
    between any two. A way is usable if each of its pairs is, and its error keeps the run's limit.

    Args:
        folder: with "pairs.csv", which names the transforms relative to it, and "limits.json", as the run left it.
        kept: how many transforms stay in memory.

    Attributes:
        digest: of the table as it was read; two runs with the same one have the same registrations.

    Raises:
        FileNotFoundError: there was no run, or it did not come to its end.
        RegistrationError: one of the two files is damaged.
    """

    def __init__(self, folder: str | Path, kept: int = 64) -> None:
        self.folder = Path(folder)
        table, limits = self.folder / "pairs.csv", self.folder / "limits.json"
        for file in (table, limits):
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing; run 'registration' to its end, or name its folder.")
        remedy = "run 'registration' again, which writes it anew from what is there"
        rows = read_table(table, "registration_dir", ("fixed", "moving"), RegistrationError, remedy)
        limit = read_json(limits, "registration_dir", error=RegistrationError, remedy=remedy)
        try:
            self.results = {result.pair: result for result in map(PairResult.from_row, rows)}
            self._limit = float("inf") if limit["inverse_mm"] is None else float(limit["inverse_mm"])
        except (KeyError, TypeError, ValueError) as error:
            raise RegistrationError(
                f"registration_dir: {self.folder} has a damaged table ({error}); {remedy}."
            ) from error
        self.digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
        self._direct: dict[str, dict[str, Pair]] = {name: {} for pair in self.results for name in pair}
        for pair in sorted(self.results, key=lambda pair: self._rank((pair,))):
            if self.results[pair].state != "failed":
                self._direct[pair.fixed].setdefault(pair.moving, pair)
                self._direct[pair.moving].setdefault(pair.fixed, pair)
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
            if name not in self._direct:
                known = f"{', '.join([*self._direct][:5])}{', ...' if len(self._direct) > 5 else ''}"
                raise RegistrationError(f"{name} is no case of {self.folder}; there are {known}.")
        if fixed == moving:
            return self._identity(fixed)
        route = self._route(fixed, moving)
        if not route or (usable and not self._is_usable(route)):
            raise RegistrationError(f"{fixed} and {moving} have no usable registration in {self.folder}.")
        maps = [(pair, self._load(self.folder / self.results[pair].transform)) for pair in route]
        place, steps = fixed, []
        for pair, stored in maps:
            steps.append(stored if pair.fixed == place else invert(stored))
            place = pair.moving if pair.fixed == place else pair.fixed
        return functools.reduce(compose, steps)

    def _identity(self, name: str) -> Transform:
        for pair, result in self.results.items():
            if name in pair and result.state != "failed":
                found = self._load(self.folder / result.transform)
                grid = found.fixed if name == pair.fixed else found.moving
                return Transform((), grid, grid)
        raise RegistrationError(f"{name} has no registration in {self.folder} that did not fail.")

    def atlases(
        self, fixed: str, labeled: Collection[str] | None = None, usable: bool = True
    ) -> list[tuple[str, float]]:
        """The labeled cases that were registered onto a case, with the similarity reached, the most similar first.

        Args:
            fixed: id.
            labeled: their ids; None for those of the plan "atlas".
            usable: False takes those marked unusable, too.
        """
        states = ("usable",) if usable else ("usable", "unusable")
        found = [
            (pair.moving, result.similarity_after)
            for pair, result in self.results.items()
            if pair.fixed == fixed
            and result.state in states
            and ("atlas" in result.roles.split() if labeled is None else pair.moving in labeled)
        ]
        return sorted(found, key=lambda atlas: -atlas[1])

    def transforms(self, fixed: str, moving: str) -> list[str]:
        """Names of the stored transforms of the way between two cases; they change with whatever it depends on."""
        return [Path(self.results[pair].transform).name for pair in self._route(fixed, moving)]

    def partners(self, cases: Sequence[str], count: int = 5, seed: int = 0) -> dict[str, list[str]]:
        """For each case up to ``count`` of the others, all with a usable map to them.

        Half of them are of those that it was registered with itself, those with the least error first; labeled cases,
        as a rule, which many share. The rest are drawn at random from all others.

        Args:
            cases: ids.
            count: at most, of each.
            seed: of the draw, which depends on it, the case and the list alone.
        """
        chosen = {}
        for fixed in cases:
            others = [name for name in cases if name != fixed and self.usable(fixed, name)]
            random.Random(f"{seed} {fixed}").shuffle(others)
            own = [name for name in others if name in self._direct[fixed]]
            own.sort(key=lambda name: self._rank((self._direct[fixed][name],)))
            first = own[: -(-count // 2)]
            chosen[fixed] = [*first, *(name for name in others if name not in first)][:count]
        return chosen

    def _route(self, fixed: str, moving: str) -> tuple[Pair, ...]:
        """The pairs to go through, one or two; none where there is no way."""
        first, last = self._direct.get(fixed, {}), self._direct.get(moving, {})
        routes = [(first[moving],)] if moving in first else []
        routes += [(first[name], last[name]) for name in first if name in last]
        return min(routes, key=self._rank, default=())

    def _rank(self, route: tuple[Pair, ...]) -> tuple[bool, float, int]:
        """The smaller, the better; of routes of equal error, as where it was not measured, the shorter one."""
        return not self._is_usable(route), self._error(route), len(route)

    def _error(self, route: tuple[Pair, ...]) -> float:
        """Inverse-consistency error in mm; 0 where it was not measured."""
        errors = [self.results[pair].inverse_error_mm for pair in route]
        return math.hypot(*(0.0 if math.isnan(error) else error for error in errors))

    def _is_usable(self, route: tuple[Pair, ...]) -> bool:
        return all(self.results[pair].state == "usable" for pair in route) and self._error(route) <= self._limit
