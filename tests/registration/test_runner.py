# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import torch
from processes import largest_file
from scenes import QUICK, SMALL_SCANNER, write_case

from custom.registration import PairRunner, map_points, register
from custom.registration import record as record_module
from custom.registration import runner as runner_module
from custom.registration.plan import Pair, all_pairs, atlas_pairs
from custom.registration.runner import write_table
from custom.registration.storage import load_transform, read_notes, save_transform
from custom.registration.transform import Affine, Transform
from custom.registration.volume import RegistrationError, read_volume
from custom.utils.errors import SettingError, kept

MOVES = {"a": (0.0, 0.0, 0.0), "b": (7.0, -4.0, 3.0), "c": (-6.0, 8.0, -3.0)}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("cases")
    return [write_case(folder, name, move) for name, move in MOVES.items()]


def pairs_of(cases: list[dict]) -> list[Pair]:
    return atlas_pairs(cases[:1], cases[1:])


def runner(folder: Path, **more) -> PairRunner:
    return PairRunner(folder, **{"settings": QUICK, "workers": 0, **more})


@pytest.fixture(scope="module")
def finished(cases, tmp_path_factory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("transforms")
    return folder, runner(folder)(pairs_of(cases), cases)


def broken(folder: Path, case: dict, change) -> dict:
    """The case with its image changed."""
    values = np.asarray(nib.load(case["image"]).dataobj).copy()
    file = folder / f"broken_{case['case']}.nii.gz"
    nib.save(nib.Nifti1Image(change(values), SMALL_SCANNER.affine), file)
    return {**case, "image": str(file)}


def test_rows_say_how_good_each_pair_is(cases, finished):
    folder, rows = finished
    assert [(row.fixed, row.moving, row.state) for row in rows] == [("b", "a", "usable"), ("c", "a", "usable")]
    for row in rows:
        assert row.similarity_after > 0.9 > row.similarity_before
        assert row.folded_fraction == 0 and row.inverse_error_mm < 2 and row.attempts == 1
        transform = load_transform(folder / row.transform)
        points = np.array([[0.0, 0.0, 0.0], [10, 5, 0]]) + MOVES[row.fixed]
        assert np.abs(map_points(points, transform).numpy() - (points - MOVES[row.fixed])).max() < 2


def test_what_is_registered_is_said_where_a_run_is_stopped(finished):
    assert f"{finished[0]} holds the pairs that are registered, which are not registered again" in kept()


def test_the_bar_is_renewed_when_it_is_due_and_not_at_every_pair(tmp_path, monkeypatch, capfd):
    """A log would have a line for each pair."""
    cases = [{"case": f"c{number}", "image": str(number)} for number in range(30)]
    monkeypatch.setattr(runner_module, "job_for", lambda fixed, moving, *_: (fixed, moving))
    monkeypatch.setattr(runner_module, "finished", lambda job: None)
    done = lambda _, jobs: ((pair, runner_module.PairResult(*pair, state="usable"), 1.0) for pair in jobs)  # noqa: E731
    monkeypatch.setattr(PairRunner, "_computed", done)
    assert len(runner(tmp_path)(all_pairs(cases), cases)) == 30 * 29
    shown = capfd.readouterr().err.split("\r")
    assert "870/870" in shown[-1] and len(shown) < 100


def test_the_time_left_is_that_of_the_pairs_and_of_what_follows(tmp_path, monkeypatch):
    """A failed pair has no time."""
    cases = [{"case": f"c{number}", "image": str(number)} for number in range(3)]
    monkeypatch.setattr(runner_module, "job_for", lambda fixed, moving, *_: (fixed, moving))
    monkeypatch.setattr(runner_module, "finished", lambda job: None)
    times = iter([None, 10.0, 20.0, 15.0, 15.0, 15.0])
    results = lambda _, jobs: ((pair, runner_module.PairResult(*pair), next(times)) for pair in jobs)  # noqa: E731
    monkeypatch.setattr(PairRunner, "_computed", results)
    said = []
    monkeypatch.setattr(runner_module, "done_in", lambda seconds: said.append(seconds) or "")
    runner(tmp_path)(all_pairs(cases), cases, following=10, later=lambda: 1000.0)
    # four to eleven pairs are left, of 10 and then 15 s
    assert said == [1000 + 14 * 10, 1000 + 13 * 15, 1000 + 12 * 15, 1000 + 11 * 15, 1000 + 10 * 15]


def test_a_second_run_computes_nothing(cases, finished, monkeypatch):
    folder, rows = finished
    monkeypatch.setattr(record_module, "register", None)
    files = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert runner(folder)(pairs_of(cases), cases) == rows
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == files


def test_other_settings_images_or_labels_are_other_transforms(cases, finished, tmp_path, capsys):
    folder, rows = finished
    before = {row.transform for row in rows}
    changed = broken(tmp_path, cases[1], lambda values: values + 0.5 * (values > 5))
    partly = {
        **cases[0],
        "label": shutil.copy(cases[0]["label"], tmp_path / "label.nii.gz"),
        "annotated_slices": [4, 6],
    }
    for again in (
        runner(folder, settings={**QUICK, "smoothing_sigma_voxels": 4.0})([Pair("b", "a")], cases),
        runner(folder, limits={"max_inverse_error_mm": None})([Pair("b", "a")], cases),
        runner(folder)([Pair("b", "a")], [cases[0], changed]),
        runner(folder)([Pair("b", "a")], [partly, cases[1]]),
    ):
        assert again[0].state == "usable" and again[0].transform not in before
        before.add(again[0].transform)
    said = capsys.readouterr().out
    assert said.count(f"Registered again: 1 pair in {folder}, such as a onto b, since files, settings or what is") == 4
    # the same content under another name is the same pair
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(Path(cases[1]["image"]).read_bytes())
    (row,) = runner(folder)([Pair("z", "a")], [cases[0], {"case": "z", "image": str(copy)}])
    assert row == replace(rows[0], fixed="z")
    # a number is one number, however it is written
    written = runner(
        folder,
        settings={**QUICK, "spacing_mm": 5, "candidates": 1.0},
        limits={"max_inverse_error_mm": 20, "min_similarity_gain": 0},
    )
    assert written([Pair("b", "a")], cases) == rows[:1]
    assert "Registered again" not in capsys.readouterr().out


def test_a_damaged_file_is_computed_again(cases, finished, tmp_path, capsys):
    folder, rows = finished
    for row in rows:
        (tmp_path / row.transform).write_bytes((folder / row.transform).read_bytes())
    first = tmp_path / rows[0].transform
    whole = first.read_bytes()
    first.write_bytes(whole[:-100])
    assert runner(tmp_path)(pairs_of(cases), cases) == rows
    assert first.read_bytes() == whole
    assert "is damaged" in capsys.readouterr().out


def test_broken_volumes_take_no_other_pair_with_them(cases, tmp_path):
    nan = broken(tmp_path, {**cases[1], "case": "nan"}, lambda values: np.where(values > 9, np.nan, values))
    flat = broken(tmp_path, {**cases[1], "case": "flat"}, np.ones_like)
    other = {**cases[1], "case": "other", "label": str(tmp_path / "label.nii.gz")}
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.int16), np.eye(4)), other["label"])
    gone = {**cases[1], "case": "gone", "image": str(tmp_path / "none.nii.gz")}
    far = {**cases[1], "case": "far", "image": str(tmp_path / "far.nii.gz")}
    affine = SMALL_SCANNER.affine.copy()
    affine[0, 3] += 5000
    nib.save(nib.Nifti1Image(np.asarray(nib.load(cases[1]["image"]).dataobj), affine), far["image"])
    everything = [*cases[:2], nan, flat, other, gone, far]
    pairs = [*(Pair(name, "a") for name in ("nan", "flat", "gone", "far")), Pair("a", "other"), Pair("b", "a")]
    rows = {(row.fixed, row.moving): row for row in runner(tmp_path / "t")(pairs, everything)}
    assert rows["b", "a"].state == rows["far", "a"].state == "usable"  # organs are looked for, wherever they are
    for pair, message in {
        ("nan", "a"): r"broken_nan\.nii\.gz has \d+ voxels? of value NaN",
        ("flat", "a"): r"broken_flat\.nii\.gz is constant",
        ("gone", "a"): r"none\.nii\.gz",
        ("a", "other"): r"label\.nii\.gz does not have the geometry of its image",
    }.items():
        assert rows[pair].state == "failed" and re.search(message, rows[pair].message)
    # without a search for the organ, headers that put volumes meters apart are a fault
    fixed_start = runner(tmp_path / "t", settings={**QUICK, "candidates": 0})
    (row,) = fixed_start([Pair("far", "a")], everything)
    assert row.state == "failed" and "the organ does not fit anywhere in the fixed volume" in row.message


def test_a_pair_that_got_worse_is_tried_again_and_marked(cases, tmp_path, capsys):
    strict = {"min_similarity_gain": 1.5}  # more than there can be
    again = runner(tmp_path, limits=strict, retries=[{"candidates": 2}, {"candidates": 0}])
    rows = again([Pair("b", "a")], cases)
    assert rows[0].state == "unusable" and rows[0].attempts == 3
    assert re.fullmatch(r"similarity 0\.\d+ before, 0\.\d+ after", rows[0].message)
    write_table(tmp_path / "pairs.csv", rows)
    assert "1 pair: 0 usable, 1 unusable, 0 failed" in capsys.readouterr().out
    # a first attempt that cannot work does not keep the second one from it
    helped = runner(
        tmp_path, settings={**QUICK, "candidates": 0, "deformable_iterations": (0, 0), "affine_iterations": 0}
    )
    helped.attempts.append(QUICK)
    (row,) = helped([Pair("b", "a")], cases)
    assert (row.state, row.attempts, row.message) == ("usable", 2, "")


def test_a_start_that_misleads_is_told_by_the_way_back(cases, tmp_path):
    """Neither affine fit nor deformation: what comes out is the start, or what the search found."""
    move = np.array([25.0, -20.0, 0.0])
    two, pair = [cases[0], write_case(tmp_path, "shifted", move)], Pair("shifted", "a")
    grid = read_volume(cases[0]["image"]).grid
    starts = {}
    for name, shift in (("wrong", 0 * move), ("right", -move)):
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, 3] = torch.from_numpy(shift)
        starts[name] = str(tmp_path / f"{name}.transform")
        save_transform(starts[name], Transform((Affine(matrix),), grid, grid))
    point = np.array([[30.0, -10.0, 5.0]])

    def registered(start: str, inverse_mm: float | None) -> tuple[dict, np.ndarray]:
        settings = {**QUICK, "affine_iterations": 0, "deformable_iterations": (0, 0)}
        limited = runner(
            tmp_path / "t", settings=settings, limits={"min_similarity_gain": -2.0, "max_inverse_error_mm": inverse_mm}
        )
        (row,) = limited([pair], two, starts={pair: starts[start]})
        assert row.state == "usable"
        return row, map_points(point, load_transform(tmp_path / "t" / row.transform)).numpy()

    row, mapped = registered("wrong", None)
    assert row.attempts == 1 and np.allclose(mapped, point, atol=0.01)
    row, mapped = registered("wrong", 15.0)
    assert row.attempts == 2 and np.linalg.norm(mapped - (point - move)) < 12
    row, mapped = registered("right", 15.0)
    assert row.attempts == 1 and np.allclose(mapped, point - move, atol=0.01)


def test_a_started_pair_is_held_against_the_way_back_of_its_start(cases, tmp_path, monkeypatch):
    (lead,) = runner(tmp_path / "t")([Pair("b", "a")], cases)
    path = tmp_path / "t" / lead.transform
    calls = []
    monkeypatch.setattr(record_module, "register", lambda *_, **more: calls.append(more) or register(*_, **more))
    other = runner(tmp_path / "t", settings={**QUICK, "smoothing_sigma_voxels": 1.4})
    (row,) = other([Pair("b", "a")], cases, starts={Pair("b", "a"): str(path)})
    assert (row.state, row.attempts, len(calls)) == ("usable", 1, 1)  # forth, and none back
    assert row.inverse_error_mm == pytest.approx(lead.inverse_error_mm, abs=1.0)
    assert read_notes(tmp_path / "t" / row.transform)["reverse_matrix"] == read_notes(path)["reverse_matrix"]


def test_a_fault_of_the_disk_is_not_kept(cases, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(nib, "load", fails)
        (row,) = runner(tmp_path / "t")([Pair("b", "a")], cases)
        assert row.state == "failed" and "Input/output error" in row.message
    assert runner(tmp_path / "t")([Pair("b", "a")], cases)[0].state == "usable"


def test_a_full_disk_is_named_and_the_next_run_continues(cases, tmp_path):
    with largest_file(3000):
        rows = runner(tmp_path)(pairs_of(cases), cases)
    assert all(row.state == "failed" and "File too large" in row.message for row in rows)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RegistrationError, match="None of 2 pairs was registered. The first one: .*File too large"):
        write_table(tmp_path / "pairs.csv", rows)
    assert [row.state for row in runner(tmp_path)(pairs_of(cases), cases)] == ["usable"] * 2


def test_faults_in_the_settings(cases, tmp_path):
    with pytest.raises(SettingError, match="plan: no such case: x; the cases are a, b, c"):
        runner(tmp_path)([Pair("x", "a")], cases)
    with pytest.raises(SettingError, match="settings, retries, limits: .*'spacin'"):
        runner(tmp_path, settings={"spacin": 3})
    with pytest.raises(SettingError, match="settings, retries, limits: .*'fold'"):
        runner(tmp_path, limits={"fold": 3})
    with pytest.raises(SettingError, match="spacing_mm: -1 must be positive"):
        runner(tmp_path, retries=[{"spacing_mm": -1}])
    with pytest.raises(SettingError, match=r"deformable_iterations: 4\.5 must be a whole number"):
        runner(tmp_path, settings={**QUICK, "deformable_iterations": (4.5, 3)})
    with pytest.raises(SettingError, match="limits: max_inverse_error_mm is '5'; give a number"):
        runner(tmp_path, limits={"max_inverse_error_mm": "5"})
    with pytest.raises(
        SettingError, match=r"a names two images, .*a_image\.nii\.gz and .*b_image\.nii\.gz; rename one"
    ):
        runner(tmp_path)([Pair("b", "a")], [*cases, {**cases[1], "case": "a"}])
    with pytest.raises(SettingError, match="workers: -2"):
        runner(tmp_path, workers=-2)


def test_an_unreachable_scheduler(cases, tmp_path):
    away = runner(tmp_path, workers=None, dask_scheduler="tcp://127.0.0.1:9")
    with pytest.raises(SettingError, match=r"scheduler: tcp://127\.0\.0\.1:9 cannot be reached .*start one with"):
        away([Pair("b", "a")], cases)


def test_the_result_does_not_depend_on_the_processes(cases, finished, tmp_path):
    _, rows = finished
    assert runner(tmp_path, workers=2)(pairs_of(cases), cases) == rows


def test_a_local_registration_listens_at_loopback_alone_and_does_not_log_the_connections_that_it_loses(tmp_path):
    with runner(tmp_path, workers=1) as running:
        client = running._client(1)
        client.wait_for_workers(1)
        levels = client.run(lambda: logging.getLogger("distributed.worker").getEffectiveLevel())
        assert set(levels.values()) == {logging.CRITICAL}
        this = psutil.Process()
        sockets = [s for process in (this, *this.children(recursive=True)) for s in process.net_connections("inet")]
        listening = {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}


@contextmanager
def dask_of_its_own(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A running scheduler and its workers, as on several machines: its address, and the processes, itself first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "fork"}
    file = folder / "scheduler.json"
    options = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    worker = ["distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    processes = [
        subprocess.Popen([sys.executable, "-m", *program, "--scheduler-file", str(file)], **options)
        for program in (scheduler, *[worker] * workers)
    ]
    try:
        until = time.monotonic() + 60
        while not file.is_file():
            assert time.monotonic() < until
            time.sleep(0.2)
        yield json.loads(file.read_text())["address"], processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextmanager
def killed_when(ready: Callable[[], bool], process: subprocess.Popen) -> Iterator[None]:
    """Kill a process as soon as something is so."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            if ready():
                process.kill()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
    assert process.wait(10) == -signal.SIGKILL


def test_a_worker_that_dies_loses_its_pair_only_and_that_is_retried(cases, finished, tmp_path):
    from dask.distributed import Client

    with dask_of_its_own(tmp_path, 2) as (address, processes), Client(address) as client:
        client.wait_for_workers(2, timeout=60)
        with killed_when(lambda: all(client.processing().values()), processes[1]):  # both have a pair
            rows = runner(tmp_path / "t", workers=None, dask_scheduler=address)(all_pairs(cases), cases)
    assert [row.state for row in rows] == ["usable"] * 6
    assert [row for row in rows if row.moving == "a"] == finished[1]


def test_a_scheduler_that_is_lost_is_named_and_what_was_finished_is_kept(cases, tmp_path):
    with dask_of_its_own(tmp_path, 1) as (address, processes):
        away = runner(tmp_path / "t", workers=None, dask_scheduler=address)
        with (
            killed_when(lambda: any((tmp_path / "t").glob("*.transform")), processes[0]),
            pytest.raises(
                SettingError, match=f"dask_scheduler: the connection to {address} was lost; .* finished pairs are kept"
            ),
        ):
            away(all_pairs(cases), cases)
    assert list((tmp_path / "t").glob("*.transform"))


SCRIPT = """
import sys, json
from pathlib import Path
from custom.registration import PairRunner, RegistrationWorkflow, register
folder, cases, settings = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
runner = PairRunner(folder / "transforms", settings, workers=0)
unlabeled = [{k: v for k, v in case.items() if k != "label"} for case in cases[2:]]
register(cases[0]["image"], cases[1]["image"], region=cases[1]["label"], **settings)  # loads ITK
print("begins", flush=True)
RegistrationWorkflow(runner, cases[:2], unlabeled, folder, plan="all").run()
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_table_is_that_of_an_uninterrupted_run(cases, tmp_path):
    cases = [*cases, write_case(tmp_path, "d", (4.0, 6.0, 2.0))]  # 12 pairs

    def start(folder: Path) -> subprocess.Popen:
        arguments = [str(folder), json.dumps(cases), json.dumps(QUICK)]
        folder.mkdir(exist_ok=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SCRIPT, *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "begins\n"
        return process

    process = start(tmp_path / "whole")
    began = time.monotonic()
    process.communicate()
    took = time.monotonic() - began
    assert process.returncode == 0
    moments = random.Random(0)

    def done() -> int:
        return len(list((tmp_path / "killed" / "transforms").glob("*.transform")))

    for more in (1, 0, 1, 0, 1):  # pairs; and then some time of one
        before, process = done(), start(tmp_path / "killed")
        while done() < before + more and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, took / 40))  # part of a pair, also where the machine is quicker by now
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert 3 <= done() < 12
    process = start(tmp_path / "killed")
    process.communicate()
    assert process.returncode == 0
    tables = [(tmp_path / name / "pairs.csv").read_bytes() for name in ("whole", "killed")]
    assert tables[0] == tables[1]
    with (tmp_path / "whole" / "pairs.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 12
