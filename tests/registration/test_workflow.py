# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import pickle
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scenes import QUICK, write_case

from custom.registration import PairRunner, Registrations, RegistrationWorkflow
from custom.registration import record as record_module
from custom.registration import workflow as workflow_module
from custom.registration.plan import Pair, read_plan
from custom.registration.record import PairResult
from custom.registration.storage import load_transform
from custom.registration.template import best_template
from custom.registration.transform import Transform
from custom.registration.volume import RegistrationError, read_volume
from custom.utils.errors import SettingError

MOVES = {"a": (0, 0, 0), "b": (7, -4, 3), "c": (-6, 8, -3), "d": (3, 6, 0), "e": (-4, -5, 2)}
LABELED, UNLABELED = "ab", "cde"


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("cases")
    return {name: write_case(folder, name, move) for name, move in MOVES.items()}


def workflow(folder: Path, cases: dict[str, dict], runner: PairRunner | None = None, **more) -> RegistrationWorkflow:
    runner = runner or PairRunner(folder / "transforms", QUICK, workers=0)
    unlabeled = [{k: v for k, v in cases[n].items() if k != "label"} for n in UNLABELED]
    return RegistrationWorkflow(runner, [cases[n] for n in LABELED], unlabeled, folder, **more)


@pytest.fixture(scope="module")
def run(cases, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("registration")
    workflow(folder, cases, plan=["atlas", "template", "similar"], similar_count=1).run()
    return folder


def table(folder: Path) -> dict[Pair, dict]:
    with (folder / "pairs.csv").open(newline="") as file:
        return {Pair(row["fixed"], row["moving"]): row for row in csv.DictReader(file)}


def table_rows(folder: Path, role: str) -> list[dict]:
    return [row for row in table(folder).values() if role in row["roles"].split()]


def error_mm(transform: Transform, fixed: str, moving: str) -> float:
    points = torch.tensor([[0.0, 0, 0], [12, 0, 5], [0, -15, -8]], dtype=torch.float64)
    a, b = (points + torch.tensor(MOVES[name], dtype=torch.float64) for name in (fixed, moving))
    return float((transform(a) - b).norm(dim=-1).max())


def test_the_table_says_what_each_pair_is_for(run):
    roles = {pair: set(row["roles"].split()) for pair, row in table(run).items()}
    (template,) = {pair.moving for pair, names in roles.items() if "template" in names}
    assert template in LABELED
    assert {p for p, names in roles.items() if "atlas" in names} == {Pair(u, a) for u in UNLABELED for a in LABELED}
    assert {p.fixed for p, names in roles.items() if "template" in names} == set(MOVES) - {template}
    similar = [p for p, names in roles.items() if "similar" in names]
    assert sorted(p.fixed for p in similar) == sorted(MOVES) and all(p.fixed != p.moving for p in similar)
    assert read_plan(run / "plan.json") == list(roles)
    assert {row["state"] for row in table(run).values() if row["roles"] != "similar"} == {"usable"}


def test_any_two_volumes_are_joined(run):
    registrations = Registrations(run)
    for fixed in MOVES:
        for moving in MOVES:
            if fixed != moving:
                assert registrations.usable(fixed, moving)
                transform = registrations.between(fixed, moving)
                assert error_mm(transform, fixed, moving) < 3, (fixed, moving)
                assert transform.fixed.shape == transform.moving.shape == (44, 40, 14)
    copy = pickle.loads(pickle.dumps(registrations))  # as for the processes of a data loader
    assert error_mm(copy.between("c", "d"), "c", "d") < 3
    assert not registrations.usable("a", "x")
    with pytest.raises(RegistrationError, match=r"x is not a case of .*; there are c, a, b, d, e"):
        registrations.between("a", "x")
    assert error_mm(registrations.between("c", "c"), "c", "c") == 0


def test_atlases_come_in_the_order_of_their_similarity(run):
    registrations = Registrations(run)
    for name in UNLABELED:
        atlases = registrations.atlases(name)
        assert {atlas for atlas, _ in atlases} == set(LABELED)
        assert atlases[0][1] >= atlases[1][1] > 0.8
    assert registrations.atlases("a") == []


def test_unlabeled_moving_volumes_get_the_organ_from_the_template(run):
    for name in UNLABELED:
        region = read_volume(run / "regions" / f"{name}.nii.gz", label=True)
        middle = region.grid.to_mm(region.values.nonzero().double().mean(dim=0).numpy())
        assert np.linalg.norm(middle - MOVES[name]) < 3


def test_a_second_run_computes_nothing_and_writes_the_same(run, cases, monkeypatch):
    before = (run / "pairs.csv").read_bytes()
    monkeypatch.setattr(record_module, "register", None)
    workflow(run, cases, plan=["atlas", "template", "similar"], similar_count=1).run()
    assert (run / "pairs.csv").read_bytes() == before


@pytest.mark.parametrize(("registered", "ahead"), [("nothing", 1), ("all", 0)])
def test_pairs_with_a_result_are_not_counted_as_ahead(registered, ahead, cases, tmp_path, monkeypatch):
    """Before a template is chosen, the pair of the labeled volumes is ahead."""
    followed = []

    def register(self, pairs, cases, name="", starts=None, following=0, later=None):
        followed.extend([following] if pairs else [])
        return [PairResult(*pair, state="usable") for pair in pairs]

    monkeypatch.setattr(PairRunner, "__call__", register)
    monkeypatch.setattr(RegistrationWorkflow, "_draw", lambda self, results: None)
    found = {"nothing": lambda folder, wanted: set(), "all": lambda folder, wanted: set(wanted)}
    monkeypatch.setattr(workflow_module, "registered_pairs", found[registered])
    workflow(tmp_path, cases).run()
    assert followed == [ahead, 0]


def test_the_folder_can_be_moved(run, tmp_path):
    shutil.copytree(run, tmp_path / "elsewhere")
    assert error_mm(Registrations(tmp_path / "elsewhere").between("c", "d"), "c", "d") < 3


def test_unusable_pairs_are_left_out(run, tmp_path):
    shutil.copytree(run, tmp_path / "r")
    rows = table(run)
    (template,) = {pair.moving for pair, row in rows.items() if "template" in row["roles"]}
    other = next(n for n in LABELED if n != template)
    for pair, row in rows.items():
        row["state"] = "unusable" if pair == Pair("c", template) else row["state"]
        row["roles"] = row["roles"].replace("similar", "")
    direct = {p for p, row in rows.items() if "atlas" in row["roles"] or "template" in row["roles"]}
    with (tmp_path / "r" / "pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[Pair("c", template)]))
        writer.writeheader()
        writer.writerows(rows[pair] for pair in direct)
    registrations = Registrations(tmp_path / "r")
    assert registrations.usable("c", template) and registrations.usable("c", "d")  # through the other labeled one
    assert [name for name, _ in registrations.atlases("c")] == [other]
    assert {name for name, _ in registrations.atlases("c", usable=False)} == set(LABELED)
    assert error_mm(registrations.between("c", template, usable=False), "c", template) < 3


def test_groups_are_registered_within_themselves(cases, tmp_path, capsys):
    phases = dict(zip(MOVES, ("ED", "ES", "ED", "ES", "other"), strict=True))
    grouped = {name: {**case, "phase": phases[name]} for name, case in cases.items()}
    workflow(tmp_path, grouped, group_by="phase").run()
    assert set(table(tmp_path)) == {Pair("c", "a"), Pair("d", "b")}
    assert "1 volume left out, since their groups have no labeled volume" in capsys.readouterr().out
    assert not Registrations(tmp_path).usable("a", "b")


def test_groups_start_where_the_leading_one_ended(cases, tmp_path):
    def two(name: str) -> list[dict]:
        """Two frames of one patient, the same image twice."""
        return [{**cases[name], "case": f"{name}{p}", "patient": name, "phase": p} for p in ("ES", "ED")]

    labeled, unlabeled = [*two("a"), *two("b")], [{**case, "label": None} for case in two("c")]
    runner = PairRunner(tmp_path / "t", {**QUICK, "deformable_iterations": (0, 0)}, workers=0)
    options = {"group_by": "phase", "plan": ["atlas", "template"], "figure_count": 0}
    RegistrationWorkflow(runner, labeled, unlabeled, tmp_path, leading="ED", **options).run()
    rows = table(tmp_path)
    assert {p.moving for p, row in rows.items() if "template" in row["roles"]} in ({"aED", "aES"}, {"bED", "bES"})
    assert Pair("cES", "aES") in rows and {row["state"] for row in rows.values()} == {"usable"}
    led = {pair: row for pair, row in rows.items() if pair.fixed.endswith("ES")}
    for pair, row in led.items():
        assert error_mm(load_transform(tmp_path / row["transform"]), pair.fixed[0], pair.moving[0]) < 3
        assert row["transform"] not in {other["transform"] for p, other in rows.items() if p not in led}
    for phase in ("ED", "ES"):
        named = RegistrationWorkflow(
            runner, labeled, unlabeled, tmp_path / phase, leading="ED", template=f"b{phase}", **options
        )
        named.run()
        assert {row["moving"] for row in table_rows(tmp_path / phase, "template")} == {"bED", "bES"}
    with pytest.raises(SettingError, match="leading: no volume has 'diastole' as its phase; there are ED, ES"):
        RegistrationWorkflow(runner, labeled, unlabeled, tmp_path, leading="diastole", **options)
    with pytest.raises(SettingError, match="leading: 'ED' is a value of group_by, which is not given"):
        RegistrationWorkflow(runner, labeled, unlabeled, tmp_path, leading="ED")
    RegistrationWorkflow(runner, labeled, unlabeled, tmp_path / "none", **options).run()
    # with no leading group the two frames, of one content, are one pair
    alone = table(tmp_path / "none")
    assert Path(alone[Pair("cES", "aES")]["transform"]).name == Path(alone[Pair("cED", "aED")]["transform"]).name


def test_the_template_can_be_named_and_a_plan_given(cases, tmp_path):
    shared = PairRunner(tmp_path / "shared", QUICK, workers=0)
    workflow(tmp_path / "b", cases, shared, plan="template", template="b").run()
    assert set(table(tmp_path / "b")) == {Pair(name, "b") for name in "acde"}
    plan = tmp_path / "mine.json"
    plan.write_text('[["c", "b"], ["a", "b"]]')
    rows = workflow(tmp_path / "given", cases, shared, plan=str(plan)).run()
    assert [(row.fixed, row.moving, row.roles) for row in rows] == [("c", "b", "given"), ("a", "b", "given")]
    plan.write_text('[["c", "b"], ["a", "x"]]')
    for settings, message in (
        ({"plan": "everything"}, "plan: 'everything' is neither one of atlas, template, similar, all"),
        ({"plan": []}, "holds no pairs; name one or more of atlas"),
        ({"plan": str(plan), "template": "a"}, "plan: no such case: x; the cases are a, b, c, d, e"),
        ({"template": "c"}, "template: c is not one of the labeled cases, "),
    ):
        with pytest.raises(SettingError, match=message):
            workflow(tmp_path, cases, **settings)
    with pytest.raises(SettingError, match="no case is labeled"):
        RegistrationWorkflow(shared, [], [cases["a"]], tmp_path)
    for names in ({"plan": "atlas"}, {"plan": ["atlas", "template"]}):
        alone = RegistrationWorkflow(shared, [cases["a"]], [], tmp_path / "alone", **names)
        with pytest.raises(
            SettingError, match="plan: .* gives no pair of the 1 volumes; list volumes under 'unlabeled'"
        ):
            alone.run()


def test_what_a_run_gives_is_its_own_though_another_one_replaces_the_table(cases, tmp_path, monkeypatch):
    mine, other = workflow(tmp_path, cases, plan="atlas"), tmp_path / "other.json"
    other.write_text('[["c", "b"]]')

    def meanwhile(*_) -> None:
        workflow(tmp_path, cases, plan=str(other), figure_count=0).run()

    monkeypatch.setattr("custom.registration.workflow.draw_pairs", meanwhile)
    registrations = mine.registrations()
    assert len(table(tmp_path)) == 1
    assert [name for name, _ in sorted(registrations.atlases("d"))] == ["a", "b"]
    assert registrations.digest != Registrations(tmp_path).digest


def test_a_given_plan_with_unlabeled_moving_volumes_marks_their_organs(cases, tmp_path):
    plan = tmp_path / "mine.json"
    plan.write_text('[["d", "c"]]')
    rows = workflow(tmp_path, cases, plan=str(plan)).run()
    assert rows[0].roles == "given" and rows[0].state == "usable"
    assert error_mm(load_transform(tmp_path / rows[0].transform), "d", "c") < 3
    assert (tmp_path / "regions" / "c.nii.gz").is_file()
    # without a template's usable registration the pair fails: the whole volume is no organ
    none = PairRunner(tmp_path / "none" / "transforms", QUICK, limits={"min_similarity_gain": 1.5}, workers=0)
    rows = workflow(tmp_path / "none", cases, none, plan=str(plan), template="a").run()
    assert rows[0].state == "failed" and "the template has no usable registration" in rows[0].message


def test_all_pairs_are_registered_when_asked_for(cases, tmp_path):
    few = {name: cases[name] for name in "abc"}
    unlabeled = [{k: v for k, v in few["c"].items() if k != "label"}]
    runner = PairRunner(tmp_path / "t", QUICK, workers=0)
    rows = RegistrationWorkflow(runner, [few["a"], few["b"]], unlabeled, tmp_path, plan="all").run()
    assert {(row.fixed, row.moving) for row in rows} == {(a, b) for a in "abc" for b in "abc" if a != b}
    assert all("all" in row.roles.split() for row in rows)


def test_the_template_is_the_volume_that_fits_the_others_best():
    def rows(moving: str, *errors: float, similarity: float = 0.5) -> list[PairResult]:
        names = [name for name in "abcd" if name != moving]
        found = zip(names, errors, strict=True)
        return [
            PairResult(
                name,
                moving,
                "usable" if not e > 20 else "unusable",
                inverse_error_mm=e,
                similarity_after=similarity,
            )
            for name, e in found
        ]

    assert best_template([*rows("a", 9.0, 8.0, 9.0), *rows("b", 8.0, 7.0, 19.0), *rows("c", 8.0, 9.0, 9.0)]) == "b"
    assert best_template([*rows("a", 9.0, 8.0, 9.0), *rows("b", 1.0, 1.0, 25.0)]) == "a"
    assert best_template([*rows("a", 25.0, 25.0, 25.0), *rows("b", 25.0, 25.0, 19.0)]) == "b"
    # not measured
    nan = [float("nan")] * 3
    assert best_template([*rows("a", *nan, similarity=0.6), *rows("b", *nan, similarity=0.7)]) == "b"
    failed = [PairResult(name, "c") for name in "ab"]
    assert best_template([*failed, *rows("a", 9.0, 9.0, 19.0)]) == "a" and best_template(failed) == "c"


def test_a_broken_labeled_case_takes_none_with_it(cases, tmp_path):
    label = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.int16), np.eye(4)), label)
    broken = {**cases, "a": {**cases["a"], "label": str(label)}}
    rows = workflow(tmp_path, broken).run()
    assert {(row.fixed, row.moving) for row in rows if row.state == "usable"} == {(f, "b") for f in "acde"}
    failed = [row for row in rows if row.state == "failed"]
    assert [row.fixed for row in failed] == list(UNLABELED)
    assert all("does not have the geometry of its image" in row.message for row in failed)


def test_no_registration_yet(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pairs\.csv is missing; run 'registration' to its end"):
        Registrations(tmp_path)


def test_labels_of_regions_are_files_that_others_read(run):
    file = nib.load(run / "regions" / "c.nii.gz")
    assert file.get_data_dtype() == np.int16 and set(np.unique(np.asarray(file.dataobj))) == {0, 1, 2}
