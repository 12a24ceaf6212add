# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Access to the results of a registration run: the map between any two volumes."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
from collections.abc import Collection, Sequence
from pathlib import Path

from custom.registration.plan import Pair
from custom.registration.record import REDO, Limits, PairResult
from custom.registration.storage import StorageError, load_transform
from custom.registration.transform import Transform, compose, invert
from custom.registration.volume import RegistrationError
from custom.utils.json_files import read_table
from custom.utils.words import first_few

__all__ = ["Registrations"]


class Registrations:
    """The registrations of a finished run.

    The map between two volumes is their direct registration or the composition of two registrations through a third
    volume, whichever has the smaller inverse-consistency error; the error of a composition is the root of the sum of
    squares. So N registrations to a template give the map between any two volumes. A route is usable if each of its
    pairs is usable and its error is within the limit of the run.

    Args:
        folder: folder of the run, with "pairs.csv" and "limits.json".
        kept: number of transforms that are kept in memory.

    Attributes:
        digest: of the table; runs with the same digest have the same registrations.

    Raises:
        FileNotFoundError: there was no run, or it has not finished.
        StorageError: the table or the limits are damaged, or were written by another version.
    """

    def __init__(self, folder: str | Path, kept: int = 64) -> None:
        self.folder = Path(folder)
        table, limits = self.folder / "pairs.csv", self.folder / "limits.json"
        for file in (table, limits):
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing; run 'registration' to its end, or give its folder.")
        rows = read_table(table, "registration_dir", error=StorageError, remedy=REDO)
        try:
            self.results = {result.pair: result for result in map(PairResult.from_row, rows)}
        except ValueError as error:  # a cell that is no number
            raise StorageError(f"{table} is damaged ({error}); {REDO}.") from error
        self.digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
        limit = Limits.load(limits).max_inverse_error_mm
        self._limit = float("inf") if limit is None else limit
        self._direct: dict[str, dict[str, Pair]] = {name: {} for pair in self.results for name in pair}
        for pair in sorted(self.results, key=lambda pair: self._rank((pair,))):
            if self.results[pair].state != "failed":
                self._direct[pair.fixed].setdefault(pair.moving, pair)
                self._direct[pair.moving].setdefault(pair.fixed, pair)
        self._kept = kept
        self._load = functools.lru_cache(maxsize=kept)(load_transform)

    def __getstate__(self) -> dict:
        """State for the processes of a data loader, each of which reads transforms itself."""
        return {name: value for name, value in vars(self).items() if name != "_load"}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._load = functools.lru_cache(maxsize=self._kept)(load_transform)

    def usable(self, fixed: str, moving: str) -> bool:
        """Whether there is a usable map between two cases."""
        return bool(route := self._route(fixed, moving)) and self._is_usable(route)

    def between(self, fixed: str, moving: str, usable: bool = True) -> Transform:
        """The map from the points of one case to those of another.

        Args:
            fixed, moving: ids. The map of a case to itself is the identity.
            usable: False allows registrations marked as unusable if there are no others.

        Raises:
            RegistrationError: an unknown case, or there is no map or no usable one.
            StorageError: a file is damaged.
        """
        for name in (fixed, moving):
            if name not in self._direct:
                raise RegistrationError(f"{name} is not a case of {self.folder}; there are {first_few(self._direct)}.")
        if fixed == moving:
            return self._identity(fixed)
        route = self._route(fixed, moving)
        if not route or (usable and not self._is_usable(route)):
            raise RegistrationError(
                f"{fixed} and {moving} have no usable registration in {self.folder}; its pairs.csv says why."
            )
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
        raise RegistrationError(f"{name} has no registration in {self.folder} that succeeded; its pairs.csv says why.")

    def atlases(
        self, fixed: str, labeled: Collection[str] | None = None, usable: bool = True
    ) -> list[tuple[str, float]]:
        """The labeled cases that were registered onto a case, with their similarities, the most similar first.

        Args:
            fixed: id.
            labeled: ids of the labeled cases; None for the pairs of the plan "atlas".
            usable: False includes registrations marked as unusable.
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
        """File names of the transforms between two cases; they change with everything that the map depends on."""
        return [Path(self.results[pair].transform).name for pair in self._route(fixed, moving)]

    def positive_volumes(self, cases: Sequence[str], count: int = 5, seed: int = 0) -> dict[str, list[str]]:
        """Choose for each case up to ``count`` other cases to which it has a usable map.

        Half of them are cases to which it was registered directly, those with the smallest error first. These are
        usually labeled cases, which many cases share. The rest is drawn at random from all others.

        Args:
            cases: ids.
            count: largest number for each case.
            seed: seed of the random draw, which depends only on the seed, the case and the list.
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
        """The one or two pairs that the map is composed of; none if there is no map."""
        first, last = self._direct.get(fixed, {}), self._direct.get(moving, {})
        routes = [(first[moving],)] if moving in first else []
        routes += [(first[name], last[name]) for name in first if name in last]
        return min(routes, key=self._rank, default=())

    def _rank(self, route: tuple[Pair, ...]) -> tuple[bool, float, int]:
        """Sort key of routes, the best one first; the shorter one of routes with the same error."""
        return not self._is_usable(route), self._error(route), len(route)

    def _error(self, route: tuple[Pair, ...]) -> float:
        """Inverse-consistency error in mm; 0 if it was not measured."""
        errors = [self.results[pair].inverse_error_mm for pair in route]
        return math.hypot(*(0.0 if math.isnan(error) else error for error in errors))

    def _is_usable(self, route: tuple[Pair, ...]) -> bool:
        return all(self.results[pair].state == "usable" for pair in route) and self._error(route) <= self._limit
