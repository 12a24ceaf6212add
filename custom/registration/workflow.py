# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The workflow ``registration`` of a bundle: from lists of cases to a folder of registrations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from custom.data.cases import Case
from custom.registration.figures import draw_pairs
from custom.registration.library import Registrations
from custom.registration.plan import (
    DEFAULT_PLAN,
    Pair,
    all_pairs,
    atlas_pairs,
    expected_pairs,
    group_of,
    leading_pairs,
    most_similar,
    read_plan,
    template_pairs,
    write_plan,
)
from custom.registration.record import PairResult
from custom.registration.runner import PairRunner, registered_pairs, write_table
from custom.registration.storage import load_transform
from custom.registration.template import best_template, template_similarity
from custom.registration.transform import Transform, warp_label
from custom.utils.errors import SettingError
from custom.utils.files import replacing
from custom.utils.log import logger
from custom.utils.words import counted, first_few

__all__ = ["PLANS", "RegistrationWorkflow"]

PLANS = ("atlas", "template", "similar", "all")
TEMPLATE_CANDIDATES = 6  # largest number of labeled volumes that are tried as the template
TEMPLATE_TRIALS = 8  # unlabeled volumes for each: up to 48 registrations, which the plan "atlas" contains anyway


class RegistrationWorkflow:
    """Register the volumes of a data set by a plan, and write "pairs.csv", "plan.json" and "pairs.png".

    A plan is one or more of:

    - "atlas": every labeled volume onto every unlabeled one;
    - "template": every volume to one labeled volume, so that N registrations give the map between any two, which
      :class:`~custom.registration.Registrations` composes. The template is chosen among the first labeled volumes by
      :func:`~custom.registration.template.best_template`;
    - "similar": to each volume the most similar ones, compared in the space of the template;
    - "all": every volume onto every other, n (n - 1) registrations;

    or the path of a JSON list of ["fixed", "moving"].

    If an unlabeled volume is the moving one, the warped label of the template marks its organ; without a usable
    registration to the template the pair fails.

    Args:
        runner: registers the pairs.
        labeled: cases with "case", "image", "label", and for ``leading`` also "patient".
        unlabeled: the same without "label".
        folder: folder for the tables; the transforms are in the folder of the runner.
        plan: see above.
        group_by: key of the cases; only volumes with the same value are registered with each other, such as those of
            one "phase".
        leading: value of that key, such as "ED", whose pairs are registered first. Pairs of the same two patients in
            other groups start from their results instead of a search. The volumes of a patient must be in the same
            coordinates, as the frames of a cine series are.
        similar_count: number of similar volumes for each volume in the plan "similar".
        template: id of the template; None chooses it.
        figure_count: number of pairs in the picture, the worst ones; 0 for no picture.

    Attributes:
        later: gives the expected seconds of the run after the registrations, for the remaining time that is displayed.

    Raises:
        SettingError: an unknown or empty plan, unknown cases in the plan, a template that is not a labeled case, no
            labeled case, an unknown leading group, or a negative ``figure_count``.
    """

    def __init__(
        self,
        runner: PairRunner,
        labeled: Sequence[Case],
        unlabeled: Sequence[Case],
        folder: str | Path,
        plan: str | Sequence[str] = DEFAULT_PLAN,
        group_by: str | None = None,
        leading: Any = None,
        similar_count: int = 5,
        template: str | None = None,
        figure_count: int = 12,
    ) -> None:
        self.runner, self.folder = runner, Path(folder)
        self.labeled, self.unlabeled = list(labeled), [dict(case) for case in unlabeled]
        self.group_by, self.leading = group_by, leading
        self.similar_count, self.template = similar_count, template
        self.given = read_plan(plan) if isinstance(plan, str) and plan.endswith(".json") else None
        self.plan = () if self.given is not None else ((plan,) if isinstance(plan, str) else tuple(plan))
        if unknown := [name for name in self.plan if name not in PLANS]:
            raise SettingError(f"plan: {unknown[0]!r} is neither one of {', '.join(PLANS)} nor a .json file.")
        if not self.plan and not self.given:
            raise SettingError(f"plan: {plan} holds no pairs; name one or more of {', '.join(PLANS)}.")
        if leading is not None and group_by is None:
            raise SettingError(f"leading: {leading!r} is a value of group_by, which is not given; name that key.")
        if leading is not None and leading not in {group_of(case, group_by) for case in self.cases}:
            there = sorted({str(group_of(case, group_by)) for case in self.cases})
            raise SettingError(f"leading: no volume has {leading!r} as its {group_by}; there are {', '.join(there)}.")
        ids = {case["case"] for case in self.cases}
        if unknown := sorted({name for pair in self.given or () for name in pair} - ids):
            raise SettingError(f"plan: no such case: {first_few(unknown)}; the cases are {', '.join(sorted(ids))}.")
        if not self.labeled:
            raise SettingError("registration: no case is labeled; label one, since the label says where the organ is.")
        if template is not None and template not in {case["case"] for case in self.labeled}:
            raise SettingError(
                f"template: {template} is not one of the labeled cases, {', '.join(c['case'] for c in self.labeled)}."
            )
        if figure_count < 0:
            raise SettingError(f"figure_count: {figure_count}; give a number of pairs, or 0 for no picture.")
        self.figure_count = figure_count
        self.later: Callable[[], float] = lambda: 0.0
        self.ahead: set[Pair] = set()  # pairs that have no result yet, for the remaining time

    @property
    def cases(self) -> list[Case]:
        """All cases, the labeled ones first."""
        return [*self.labeled, *self.unlabeled]

    def run(self) -> list[PairResult]:
        """Register the pairs of the plan that have no result yet.

        Returns:
            The result of each pair, as in "pairs.csv".
        """
        with self.runner:
            results = self._run()
        self._draw(results)
        return results

    def registrations(self) -> Registrations:
        """Register the pairs of the plan that have no result yet.

        Returns:
            The maps between the volumes.
        """
        with self.runner:
            results = self._run()
        # read before the picture is drawn, since a run of other cases may replace the table of this folder
        registrations = Registrations(self.folder)
        self._draw(results)
        return registrations

    def _draw(self, results: Sequence[PairResult]) -> None:
        if self.figure_count:
            draw_pairs(self.folder / "pairs.png", results, self.cases, self.folder, self.figure_count)

    def _run(self) -> list[PairResult]:
        roles: dict[Pair, list[str]] = {}

        def add(pairs: Sequence[Pair], role: str) -> None:
            for pair in pairs:
                roles.setdefault(pair, []).append(role)

        if self.given is not None:
            add(self.given, "given")
        if "atlas" in self.plan:
            add(atlas_pairs(self.labeled, self.unlabeled, self.group_by), "atlas")
        unlabeled = {case["case"] for case in self.unlabeled}
        expected = {*roles} | expected_pairs(self.plan, self.labeled, self.unlabeled, self.group_by)
        self.ahead = expected - registered_pairs(self.runner.folder, expected)
        # an unlabeled volume can be a moving one only with the organ of the template
        through_template = bool({"similar", "all"} & set(self.plan)) or any(pair.moving in unlabeled for pair in roles)
        if through_template or "template" in self.plan:
            templates = self._templates()
            grouped = [case for case in self.cases if group_of(case, self.group_by) in templates]
            if left_out := len(self.cases) - len(grouped):
                logger.warning(
                    f"template: {counted(left_out, 'volume')} left out, since their groups have no labeled volume."
                )
            to_template = template_pairs(grouped, templates, self.group_by)
            add(to_template, "template")
            if through_template:
                found = self._register(to_template, name="To the template")
                self._mark_organs(found, templates)
                if "all" in self.plan:
                    add(all_pairs(grouped, self.group_by), "all")
                if "similar" in self.plan:
                    add(self._similar(found, grouped, templates), "similar")
        if not roles:
            raise SettingError(
                f"plan: {', '.join(self.plan)} gives no pair of the {len(self.cases)} volumes; list volumes under "
                "'unlabeled', lower labeled_cases, or name another plan."
            )
        self.ahead &= {*roles}  # the template is chosen
        write_plan(self.folder / "plan.json", roles)
        results = [
            replace(result, roles=" ".join(roles[result.pair]), transform=self._path(result))
            for result in self._register(list(roles))
        ]
        self.runner.limits.save(self.folder / "limits.json")
        write_table(self.folder / "pairs.csv", results)
        return results

    def _register(self, pairs: Sequence[Pair], name: str = "Registering") -> list[PairResult]:
        """Register pairs, the leading group first and the others from its results. Results are in the given order."""
        organs = {case["case"] for case in self.cases if case.get("label") or case.get("region")}
        lost = [pair for pair in pairs if pair.moving not in organs]
        message = "the template has no usable registration to the moving volume, which would mark its organ"
        results = {pair: PairResult(*pair, message=message) for pair in lost}
        pairs_left = [pair for pair in pairs if pair not in results]
        leads = {} if self.leading is None else leading_pairs(pairs_left, self.cases, self.group_by, self.leading)
        first = [pair for pair in pairs_left if pair not in leads]
        title = f"{name}, {self.leading}" if leads else name
        self.ahead -= {*first}
        found = self.runner(first, self.cases, title, following=len(self.ahead), later=self.later)
        results |= zip(first, found, strict=True)
        usable = {pair: lead for pair, lead in leads.items() if results[lead].state == "usable"}
        starts = {pair: str(self.runner.folder / results[lead].transform) for pair, lead in usable.items()}
        self.ahead -= {*leads}
        found = self.runner(list(leads), self.cases, f"{name}, from there", starts, len(self.ahead), self.later)
        results |= zip(leads, found, strict=True)
        return [results[pair] for pair in pairs]

    def _path(self, result: PairResult) -> str:
        """Path of the transform relative to the table, so that both can be moved together."""
        return result.transform and os.path.relpath(self.runner.folder / result.transform, self.folder)

    def _templates(self) -> dict[Any, str]:
        """The template of each group; with a leading group, all templates are of the same patient."""
        templates: dict[Any, str] = {}
        patient = None
        if self.leading is not None and self.template is not None:
            patient = next(case["patient"] for case in self.labeled if case["case"] == self.template)
        groups = dict.fromkeys(group_of(case, self.group_by) for case in self.labeled)
        for group in sorted(groups, key=lambda group: group != self.leading):
            labeled = [case for case in self.labeled if group_of(case, self.group_by) == group]
            named = [case["case"] for case in labeled if case["case"] == self.template]
            if patient is not None:
                named += [case["case"] for case in labeled if case["patient"] == patient]
            templates[group] = named[0] if named else self._choose(labeled, group)
            if self.leading is not None and patient is None:
                patient = next(case["patient"] for case in labeled if case["case"] == templates[group])
        return templates

    def _choose(self, labeled: Sequence[Case], group: Any) -> str:
        candidates = labeled[:TEMPLATE_CANDIDATES]
        if len(candidates) == 1:
            return candidates[0]["case"]
        others = [case for case in self.unlabeled if group_of(case, self.group_by) == group] or candidates
        spread = np.linspace(0, len(others) - 1, min(len(others), TEMPLATE_TRIALS)).round().astype(int)
        others = [others[number] for number in spread]
        template = best_template(self._register(atlas_pairs(candidates, others), name="Choosing a template"))
        about = "" if group is None else f" of {self.group_by} {group}"
        logger.info(f"Template{about}: {template}, of {counted(len(candidates), 'labeled volume')}.")
        return template

    def _loaded(self, result: PairResult) -> Transform | None:
        if result.state != "usable":
            return None
        return load_transform(self.runner.folder / result.transform)

    def _mark_organs(self, results: Sequence[PairResult], templates: Mapping[Any, str]) -> None:
        """Give unlabeled volumes the warped label of the template as "region", so that they can be moving volumes."""
        by_id = {case["case"]: case for case in self.cases}
        to_template = {result.fixed: result for result in results if result.moving in templates.values()}
        for case in self.unlabeled:
            result = to_template.get(case["case"])
            if result is None or (transform := self._loaded(result)) is None:
                continue
            label = warp_label(by_id[result.moving]["label"], transform)
            case["region"] = str(self.folder / "regions" / f"{case['case']}.nii.gz")
            with replacing(case["region"]) as temporary:
                nib.save(nib.Nifti1Image(label[0].numpy().astype(np.int16), label.affine.numpy()), temporary)

    def _similar(
        self, results: Sequence[PairResult], cases: Sequence[Case], templates: Mapping[Any, str]
    ) -> list[Pair]:
        by_id = {case["case"]: case for case in cases}
        pairs = []
        for template in templates.values():
            transforms = {result.fixed: self._loaded(result) for result in results if result.moving == template}
            transforms = {name: found for name, found in transforms.items() if found is not None}
            mine = [by_id[name] for name in (template, *transforms)]
            images = {case["case"]: case["image"] for case in mine}
            settings = self.runner.attempts[0]
            alike = template_similarity(
                images, transforms, by_id[template]["image"], by_id[template]["label"], **settings
            )
            pairs += most_similar(mine, alike, self.similar_count)
        return pairs
