# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from custom.registration import Registrations
from custom.registration.plan import Pair
from custom.registration.record import Limits, PairResult
from custom.registration.runner import write_table
from custom.registration.storage import StorageError, save_transform
from custom.registration.transform import Affine, Transform
from custom.registration.volume import Grid, RegistrationError

GRID = Grid((4, 4, 4), np.eye(4))


def registrations(folder: Path, pairs: dict[tuple[str, str], tuple]) -> Registrations:
    """Of a table; each pair has its shift along x in mm, its error in mm, and perhaps its state."""
    rows = []
    for (fixed, moving), (shift, error, *state) in pairs.items():
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[0, 3] = shift
        name = f"{fixed}{moving}.transform"
        save_transform(folder / name, Transform((Affine(matrix),), GRID, GRID))
        row = {"state": state[0] if state else "usable", "inverse_error_mm": error, "transform": name, "roles": "atlas"}
        rows.append(PairResult(fixed, moving, **row))
    write_table(folder / "pairs.csv", rows)
    Limits(max_inverse_error_mm=20.0).save(folder / "limits.json")
    return Registrations(folder)


def shift(found: Registrations, fixed: str, moving: str, **options) -> float:
    return float(found.between(fixed, moving, **options)(torch.zeros(1, 3))[0, 0])


def test_the_way_with_the_least_error_is_taken(tmp_path):
    through = {("a", "t"): (10.0, 3.0), ("b", "t"): (100.0, 4.0)}
    found = registrations(tmp_path / "1", {("a", "b"): (1.0, 4.9), **through})
    assert shift(found, "a", "b") == 1.0 and shift(found, "b", "a") == -1.0
    found = registrations(tmp_path / "2", {("a", "b"): (1.0, 5.1), **through})  # of 3 and 4 mm
    assert shift(found, "a", "b") == -90.0 and shift(found, "b", "a") == 90.0
    better = {("a", "s"): (20.0, 2.0), ("s", "b"): (200.0, 4.5)}
    found = registrations(tmp_path / "3", {("a", "b"): (1.0, 5.1), **through, **better})
    assert shift(found, "a", "b") == 220.0
    # of the two registrations between two volumes
    found = registrations(tmp_path / "4", {("a", "b"): (1.0, 5.0), ("b", "a"): (-2.0, 4.0)})
    assert shift(found, "a", "b") == 2.0
    # with errors that were not measured, the shortest
    nan = float("nan")
    found = registrations(tmp_path / "5", {("a", "t"): (10.0, nan), ("b", "t"): (100.0, nan), ("a", "b"): (1.0, nan)})
    assert shift(found, "a", "b") == 1.0


def test_unusable_pairs_are_the_last_choice(tmp_path):
    pairs = {("a", "b"): (1.0, 25.0, "unusable"), ("a", "t"): (10.0, 14.0), ("b", "t"): (100.0, 14.0)}
    found = registrations(tmp_path / "1", pairs)
    assert found.usable("a", "b") and shift(found, "a", "b") == -90.0
    pairs["b", "t"] = (100.0, 15.0)
    found = registrations(tmp_path / "limit", pairs)  # usable pairs, but 20.5 mm in all
    assert not found.usable("a", "b") and found.usable("b", "t")
    pairs["b", "t"] = (100.0, 30.0, "unusable")
    found = registrations(tmp_path / "2", pairs)
    assert not found.usable("a", "b")
    with pytest.raises(RegistrationError, match="a and b have no usable registration"):
        found.between("a", "b")
    assert shift(found, "a", "b", usable=False) == 1.0


def test_failed_pairs_join_nothing(tmp_path):
    found = registrations(tmp_path, {("a", "b"): (1.0, 5.0, "failed"), ("a", "c"): (1.0, 5.0)})
    assert not found.usable("a", "b") and found.results.keys() == {Pair("a", "b"), Pair("a", "c")}
    with pytest.raises(RegistrationError, match="a and b have no usable registration"):
        found.between("a", "b", usable=False)


def test_positive_volumes_are_usable_those_registered_directly_first(tmp_path):
    to_template = {(name, "t"): (1.0, error) for name, error in zip("abcde", (5.0, 6.0, 7.0, 8.0, 9.0), strict=True)}
    pairs = {**to_template, ("a", "b"): (1.0, 4.0), ("f", "t"): (1.0, 30.0, "unusable")}
    found, cases = registrations(tmp_path, pairs), list("abcdeft")
    chosen = found.positive_volumes(cases, count=9)
    assert chosen["a"][:2] == ["b", "t"] and sorted(chosen["a"]) == list("bcdet")
    assert chosen["t"][:5] == list("abcde") and chosen["f"] == []
    two = found.positive_volumes(cases, count=2)  # one of those that it was registered with, one of all others
    assert two["a"][0] == "b" and len({tuple(found.positive_volumes(cases, 2, seed)["a"]) for seed in range(8)}) > 1
    assert [len(names) for names in two.values()] == [2, 2, 2, 2, 2, 0, 2]
    draws = [found.positive_volumes(cases, 9, seed)["c"] for seed in range(8)]
    assert len({tuple(names) for names in draws}) > 1 and draws[0] == chosen["c"]
    assert found.positive_volumes(["a", "x"]) == {"a": [], "x": []}


def test_a_run_without_its_limits_is_named(tmp_path):
    registrations(tmp_path, {("a", "b"): (1.0, 5.0)})
    (tmp_path / "limits.json").unlink()  # as an earlier version left it
    with pytest.raises(FileNotFoundError, match=r"limits\.json is missing; run 'registration' to its end"):
        Registrations(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.csv", b"\xff\xfe", r"pairs\.csv is not in UTF-8"),
        ("pairs.csv", b"fixed,moving,state\na,b,usable\n", r"pairs\.csv has the columns fixed, moving, state"),
        ("pairs.csv", b"fixed,moving\na\n", r"pairs\.csv has no moving in row 1; run 'registration' again"),
        ("limits.json", b"\xff", r"limits\.json is not in UTF-8"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, name, content, message):
    registrations(tmp_path, {("a", "b"): (1.0, 4.9)})
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StorageError, match=message):
        Registrations(tmp_path)


def test_a_cell_that_is_no_number_is_named(tmp_path):
    registrations(tmp_path, {("a", "b"): (1.0, 4.9)})
    table = tmp_path / "pairs.csv"
    table.write_text(table.read_text().replace("4.9", "far"))
    with pytest.raises(StorageError, match=r"pairs\.csv is damaged .*'far'.*; run 'registration' again"):
        Registrations(tmp_path)


def test_records_of_another_version_are_refused(tmp_path):
    registrations(tmp_path, {("a", "b"): (1.0, 5.0)})
    limits, table = tmp_path / "limits.json", tmp_path / "pairs.csv"
    written = limits.read_text()
    for content in ('{"gain": 0.0, "folded": 0.01, "inverse_mm": 20.0}', '{"max_inverse_error_mm": 20.0}', "[]"):
        limits.write_text(content)
        with pytest.raises(StorageError, match=r"limits\.json holds .*; run 'registration' again"):
            Registrations(tmp_path)
    limits.write_text(written)
    assert Registrations(tmp_path).usable("a", "b")
    table.write_text(table.read_text().replace("folded_fraction", "folded"))
    with pytest.raises(StorageError, match="pairs.csv has the columns .*, folded, .*; run 'registration' again"):
        Registrations(tmp_path)
