# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Plans of a registration run: lists of the pairs to register."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from custom.data.cases import Case
from custom.utils.errors import SettingError
from custom.utils.files import replacing
from custom.utils.json_files import read_json

__all__ = [
    "DEFAULT_PLAN",
    "Pair",
    "all_pairs",
    "atlas_pairs",
    "expected_pairs",
    "group_of",
    "leading_pairs",
    "most_similar",
    "read_plan",
    "template_pairs",
    "write_plan",
]

DEFAULT_PLAN = ("atlas", "template")


class Pair(NamedTuple):
    """Ids of two cases; the transform maps the points of the fixed one to those of the moving one."""

    fixed: str
    moving: str


def atlas_pairs(labeled: Sequence[Case], others: Sequence[Case], group_by: str | None = None) -> list[Pair]:
    """Pairs of every labeled case with each other case.

    Args:
        labeled: cases, see :class:`custom.data.cases.Case`.
        others: cases; a case is not paired with itself.
        group_by: key of the cases, such as "phase"; only cases with the same value are paired.
    """
    return [
        Pair(other["case"], atlas["case"])
        for other in others
        for atlas in labeled
        if other["case"] != atlas["case"] and _same(other, atlas, group_by)
    ]


def all_pairs(cases: Sequence[Case], group_by: str | None = None) -> list[Pair]:
    """Both directions of all pairs of a group: n (n - 1) registrations."""
    return atlas_pairs(cases, cases, group_by)


def template_pairs(cases: Iterable[Case], templates: Mapping[Any, str], group_by: str | None = None) -> list[Pair]:
    """Pairs of each case with the template of its group.

    Args:
        cases: see :func:`atlas_pairs`.
        templates: value of ``group_by`` to the id of the template; None is the value of cases without that key.
    """
    pairs = [Pair(case["case"], templates[group_of(case, group_by)]) for case in cases]
    return [pair for pair in pairs if pair.fixed != pair.moving]


def expected_pairs(
    plan: Collection[str], labeled: Sequence[Case], unlabeled: Sequence[Case], group_by: str | None = None
) -> set[Pair]:
    """The pairs of a plan as far as they are known before any registration, to estimate the time of a run.

    The template is not chosen yet, so the first labeled case of each group stands for it, which gives the right number.
    Pairs of similar cases are not among them.

    Args:
        plan: see :class:`custom.registration.workflow.RegistrationWorkflow`.
        labeled, unlabeled: cases.
        group_by: see :func:`atlas_pairs`.
    """
    templates = {group_of(case, group_by): case["case"] for case in reversed(labeled)}
    grouped = [case for case in (*labeled, *unlabeled) if group_of(case, group_by) in templates]
    pairs = {*atlas_pairs(labeled, unlabeled, group_by)} if "atlas" in plan else set()
    if {"template", "similar", "all"} & {*plan}:
        pairs |= {*template_pairs(grouped, templates, group_by)}
    return pairs | ({*all_pairs(grouped, group_by)} if "all" in plan else set())


def most_similar(
    cases: Sequence[Case],
    similarity: Callable[[str, str], float],
    count: int,
    group_by: str | None = None,
) -> list[Pair]:
    """Pairs of each case with the ``count`` most similar cases of its group.

    Args:
        cases: see :func:`atlas_pairs`.
        similarity: function of two ids, larger for more similar cases; -inf if it is unknown, which gives no pair.
        count: at least 1.
        group_by: see :func:`atlas_pairs`.

    Raises:
        SettingError: a count below 1.
    """
    if count < 1:
        raise SettingError(f"similar_count: {count}; each volume needs at least 1 similar one.")
    pairs = []
    for case in cases:
        others = [pair.moving for pair in atlas_pairs(cases, [case], group_by)]
        ranked = sorted(((similarity(case["case"], other), other) for other in others), key=lambda found: -found[0])
        pairs += [Pair(case["case"], other) for value, other in ranked[:count] if value > float("-inf")]
    return pairs


def leading_pairs(pairs: Iterable[Pair], cases: Iterable[Case], group_by: str, leading: Any) -> dict[Pair, Pair]:
    """Map pairs of other groups to the pair of the same two patients in the leading group, if it is in the list.

    Args:
        pairs: of all groups.
        cases: with "case", "patient" and the key ``group_by``.
        group_by: see :func:`atlas_pairs`.
        leading: value of that key. Patients with several volumes in that group are left out.
    """
    patients, leaders = {case["case"]: case["patient"] for case in cases}, {}
    for case in cases:
        if group_of(case, group_by) == leading:
            leaders.setdefault(case["patient"], []).append(case["case"])
    pairs, leads = list(pairs), {}
    for pair in pairs:
        found = [leaders.get(patients[name], []) for name in pair]
        if all(len(names) == 1 for names in found):
            leads[pair] = Pair(found[0][0], found[1][0])
    there = set(pairs)
    return {pair: lead for pair, lead in leads.items() if lead != pair and lead in there}


def group_of(case: Case, group_by: str | None) -> Any:
    """The value that the cases of a pair must share; None if all may be paired."""
    return None if group_by is None else case.get(group_by)


def write_plan(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as a JSON list of [fixed, moving], one on each line."""
    lines = ",\n".join(f"  {json.dumps(list(pair))}" for pair in pairs)
    with replacing(path) as temporary:
        temporary.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_plan(path: str | Path) -> list[Pair]:
    """Read a plan that :func:`write_plan` or a user wrote.

    Raises:
        SettingError: the file is missing, or is not a list of pairs of ids.
    """
    content = read_json(path, "plan", list, remedy='give a JSON list of ["fixed", "moving"]')
    if not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in content
    ):
        raise SettingError(f'plan: {path} must be a JSON list of ["fixed", "moving"], the ids of two cases each.')
    return [Pair(*pair) for pair in content]


def _same(a: Case, b: Case, group_by: str | None) -> bool:
    return group_of(a, group_by) == group_of(b, group_by)
