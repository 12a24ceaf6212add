# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Many pairs: on all cores of this machine, or on those of a running Dask scheduler."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from custom.registration.plan import Pair
from custom.registration.record import Job, Limits, PairResult, finished, job_for, register_job
from custom.registration.settings import Settings
from custom.registration.volume import RegistrationError
from custom.utils.errors import SettingError
from custom.utils.files import write_csv
from custom.utils.log import logger

__all__ = ["PairRunner", "write_table"]

MEMORY = 3 << 30  # bytes that a process may need: a few copies of a large CT
TRIES = 3  # of a pair whose worker dies
WORKER_TIMEOUT = 60  # seconds until a scheduler has one
SHOWN = 5  # problems printed
KILLED = "its process died again and again, for want of memory perhaps; use fewer --workers, and run again"
LOOPBACK = "127.0.0.1"


class PairRunner:
    """Registers pairs, each once: what was done before, by whichever run, is read.

    A pair that cannot be registered, or whose process dies, takes none of the others with it. As a context manager it
    keeps its processes until the end.

    Args:
        folder: for the transforms, a small file each.
        settings: of :func:`~custom.registration.register`.
        retries: further settings, each put over ``settings`` for a pair that the ones before did not fit.
        limits: of what is usable, see :class:`~custom.registration.record.Limits`.
        workers: processes on this machine; None takes as many as its cores and memory allow, 0 works in this one.
        scheduler: address of a running Dask scheduler, "tcp://host:port", instead. Its workers need this package and
            the same paths.

    Raises:
        SettingError: settings, limits or workers that cannot be.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any] | None = None,
        retries: Sequence[Mapping[str, Any]] = (),
        limits: Mapping[str, Any] | None = None,
        workers: int | None = None,
        scheduler: str | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.attempts = [{**(settings or {}), **more} for more in ({}, *retries)]
        try:
            for attempt in self.attempts:
                Settings(**attempt)
            self.limits = Limits(**(limits or {}))
        except TypeError as error:
            raise SettingError(f"settings, retries, limits: {error}; see custom.registration.Settings.") from error
        if workers is not None and workers < 0:
            raise SettingError(f"workers: {workers}; give the number of processes, or 0 to work in this one.")
        self.workers, self.scheduler = workers, scheduler
        self._open, self._depth = ExitStack(), 0
        self._connected = self._cluster = None

    def __call__(
        self,
        pairs: Sequence[Pair],
        cases: Sequence[Mapping[str, Any]],
        name: str = "Registering",
        starts: Mapping[Pair, str] | None = None,
    ) -> list[PairResult]:
        """Register pairs that are not yet done.

        Args:
            pairs: ids of cases.
            cases: those of the pairs: "case", "image", and of moving ones a "label" or "region" that marks the organ.
            name: for the progress bar.
            starts: of some pairs, the file of a transform where the first attempt starts: a result of this class,
                whose name stands for its content.

        Returns:
            What came of each pair, in the order of ``pairs``.

        Raises:
            SettingError: a pair names a case that is not there, two images have one id, or the scheduler cannot be
                reached, or is lost.
        """
        by_id: dict[str, Mapping[str, Any]] = {}
        for case in cases:
            if by_id.setdefault(case["case"], case)["image"] != case["image"]:
                both = f"{by_id[case['case']]['image']} and {case['image']}"
                raise SettingError(f"{case['case']} names two images, {both}; rename one of them.")
        if unknown := sorted({name for pair in pairs for name in pair} - set(by_id)):
            raise SettingError(f"plan: no such case: {', '.join(unknown[:5])}; the cases are {', '.join(by_id)}.")
        results: dict[Pair, PairResult] = {}
        jobs: dict[Pair, Job] = {}
        for pair in dict.fromkeys(pairs):
            try:
                two = by_id[pair.fixed], by_id[pair.moving]
                job = job_for(*two, self.attempts, self.limits, self.folder, (starts or {}).get(pair))
            except OSError as error:
                results[pair] = PairResult(*pair, message=str(error))
                continue
            if result := finished(job):
                results[pair] = result
            else:
                jobs[pair] = job
        done = len(results)
        with tqdm(total=len(results) + len(jobs), initial=done, desc=name, unit="pair", disable=not jobs) as bar:
            for pair, result in self._computed(jobs):
                results[pair] = result
                bar.update()
        return [results[pair] for pair in pairs]

    def _computed(self, jobs: Mapping[Pair, Job]) -> Iterator[tuple[Pair, PairResult]]:
        """Pairs as they are finished."""
        if not jobs:
            return
        if self.workers == 0 and self.scheduler is None:
            for pair, job in jobs.items():
                try:
                    yield pair, register_job(job)
                except Exception as error:  # whatever it is, the other pairs do not hang on it
                    yield pair, PairResult(*pair, message=_told(error))
            return
        from dask.distributed import CancelledError, KilledWorker, as_completed

        with self:
            client = self._client(len(jobs))
            address = client.scheduler.address
            # a name of its own: a scheduler that goes on running would remember the outcome of an earlier run
            run = uuid.uuid4().hex
            futures = {
                client.submit(register_job, job, key=f"register-{pair.fixed}-{pair.moving}-{run}"): pair
                for pair, job in jobs.items()
            }
            for future in as_completed(futures):
                pair = futures[future]
                try:
                    result = future.result()
                except CancelledError as error:
                    raise SettingError(
                        f"scheduler: {address} was lost; start it again, and run this again: the pairs that were "
                        "finished are kept."
                    ) from error
                except KilledWorker:
                    result = PairResult(*pair, message=KILLED)
                except Exception as error:
                    result = PairResult(*pair, message=_told(error))
                yield pair, result

    def __enter__(self) -> PairRunner:
        """Keep the processes, once started, for several calls: each loads ITK for seconds."""
        self._depth += 1
        return self

    def __exit__(self, *error: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._open.close()
            self._connected = self._cluster = None

    def _client(self, jobs: int) -> Any:
        if self._connected is None:
            self._connected = self._connect()
        if self._cluster is not None:  # grows with the work, and keeps what it has
            most = self.workers or min(_fitting_workers(), jobs)
            self._cluster.scale(max(most, len(self._cluster.worker_spec)))
        return self._connected

    def _connect(self) -> Any:
        import dask
        from dask.distributed import Client, LocalCluster
        from distributed import TimeoutError as NoWorkerError

        for name in [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "distributed"]:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # every start and end of a process is news to it
        if self.scheduler is not None:
            try:
                client = self._open.enter_context(Client(self.scheduler, timeout=10))
            except (OSError, ValueError) as error:
                raise SettingError(
                    f"scheduler: {self.scheduler} cannot be reached ({error}); start one with 'dask scheduler' and "
                    "give its address as tcp://host:port, or leave --scheduler away to work on this machine."
                ) from error
            try:
                client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
            except NoWorkerError as error:
                raise SettingError(
                    f"scheduler: {self.scheduler} has no workers; start some with 'dask worker {self.scheduler} "
                    "--nthreads 1', which need this package and the same paths."
                ) from error
            return client
        # Each process works on one thread. Memory is bounded by their number: a limit would kill a worker whose large
        # pair is just what it was started for.
        # Whoever reaches one of its ports runs code here: Dask's own choice for its page is every address.
        options = {"threads_per_worker": 1, "memory_limit": 0, "host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:0"}
        # a process takes its next pair when it is free: pairs differ in length by their retries
        scheduling = {"allowed-failures": TRIES - 1, "worker-saturation": 1.0}
        scheduling = {f"distributed.scheduler.{key}": value for key, value in scheduling.items()}
        # unless told not to, Dask has its processes hand all freed memory back, whose pages are zeroed when taken again
        scheduling["distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"] = None
        self._open.enter_context(dask.config.set(scheduling))
        logger.info("Starting processes: the first pair of each takes longer than those after it.")
        self._cluster = self._open.enter_context(LocalCluster(n_workers=0, **options))
        return self._open.enter_context(Client(self._cluster))


def write_table(path: str | Path, results: Sequence[PairResult]) -> None:
    """Write what came of pairs as CSV, a row each, and tell how many are usable."""
    write_csv(Path(path), [asdict(result) for result in results])
    states = Counter(result.state for result in results)
    counts = ", ".join(f"{states[state]} {state}" for state in ("usable", "unusable", "failed"))
    logger.info(f"{len(results)} pairs: {counts}. Table: {path}")
    problems = [result for result in results if result.state != "usable"]
    for result in problems[:SHOWN]:
        logger.warning(f"  {result}, {result.message}")
    if len(problems) > SHOWN:
        logger.warning(f"  ... and {len(problems) - SHOWN} more in the table.")
    if results and states["failed"] == len(results):
        raise RegistrationError(f"Every one of {len(results)} pairs failed, the first one thus: {results[0].message}")


def _fitting_workers() -> int:
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    return max(1, min(CPU_COUNT, MEMORY_LIMIT // MEMORY))


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
