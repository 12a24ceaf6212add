# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Registration of many pairs in parallel, on this machine or with a Dask scheduler."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from custom.registration.plan import Pair
from custom.registration.record import Job, Limits, PairResult, finished, job_for, timed_job
from custom.registration.settings import Settings
from custom.registration.storage import StorageError, read_notes
from custom.registration.volume import RegistrationError
from custom.utils.bars import done_in, run_bar
from custom.utils.errors import SettingError, keeps
from custom.utils.files import write_csv
from custom.utils.log import logger
from custom.utils.machine import core_count, memory_limit
from custom.utils.words import counted, first_few

__all__ = ["PairRunner", "registered_pairs", "write_table"]

MEMORY = 3 << 30  # bytes per process, for a few copies of a large CT
TRIES = 3  # attempts at a pair whose worker process is killed
WORKER_TIMEOUT = 60  # seconds to wait for the first worker of a scheduler
SHOWN = 5  # number of problems that are logged
KILLED = "its process was killed several times, perhaps because memory ran out; run again with fewer --workers"
LOOPBACK = "127.0.0.1"


class PairRunner:
    """Registers pairs; results of earlier runs are read from their files.

    A pair that cannot be registered, or whose process is killed, does not affect the others. As a context manager the
    runner keeps its processes for several calls.

    Args:
        folder: folder for the transforms, one small file for each pair.
        settings: settings of :func:`~custom.registration.register`.
        retries: settings of further attempts, each merged into ``settings``, for pairs that are not usable so far.
        limits: of usable pairs, see :class:`~custom.registration.record.Limits`.
        workers: number of processes on this machine; None for as many as its cores and memory allow, 0 to work in this
            process.
        dask_scheduler: address of a running Dask scheduler, "tcp://host:port", to use instead. Its workers need this
            package and the same paths.

    Raises:
        SettingError: settings, limits or workers are not valid.
    """

    def __init__(
        self,
        folder: str | Path,
        settings: Mapping[str, Any] | None = None,
        retries: Sequence[Mapping[str, Any]] = (),
        limits: Mapping[str, Any] | None = None,
        workers: int | None = None,
        dask_scheduler: str | None = None,
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
        self.workers, self.dask_scheduler = workers, dask_scheduler
        self._open, self._depth = ExitStack(), 0
        self._connected = self._cluster = None

    def __call__(
        self,
        pairs: Sequence[Pair],
        cases: Sequence[Mapping[str, Any]],
        name: str = "Registering",
        starts: Mapping[Pair, str] | None = None,
        following: int = 0,
        later: Callable[[], float] = lambda: 0.0,
    ) -> list[PairResult]:
        """Register the pairs that have no result yet.

        Args:
            pairs: ids of cases.
            cases: with "case", "image", and for moving ones a "label" or "region" that marks the organ.
            name: name of the progress bar.
            starts: pair to the file of a transform from which its first attempt starts, a result of this class.
            following: number of pairs of the next call, for the remaining time that is displayed.
            later: gives the expected seconds of the run after the registrations, also for the remaining time.

        Returns:
            The result of each pair, in the order of ``pairs``.

        Raises:
            SettingError: a pair names an unknown case, two images have the same id, or the scheduler cannot be reached
                or is lost.
        """
        results, jobs = self._prepared(pairs, cases, starts or {})
        if again := sorted(registered_pairs(self.folder, jobs)):
            logger.info(
                f"Registered again: {counted(len(again), 'pair')} in {self.folder}, such as {again[0].moving} onto "
                f"{again[0].fixed}, since files, settings or what is annotated differ; the earlier results are kept."
            )
        done, after, times = len(results), later() if jobs else 0.0, []
        with run_bar(len(results) + len(jobs), name, "pair", initial=done, disable=not jobs) as bar:
            for pair, result, seconds in self._computed(jobs):
                results[pair] = result
                times += [] if seconds is None else [seconds]
                left = bar.total - bar.n - 1 + following
                if times:
                    ahead = left * sum(times) / len(times) / self._at_once(len(jobs))
                    bar.set_postfix_str(done_in(ahead + after), refresh=False)
                bar.update()
                keeps(
                    str(self.folder),
                    f"{self.folder} holds the pairs that are registered, which are not registered again",
                )
        return [results[pair] for pair in pairs]

    def _prepared(
        self, pairs: Sequence[Pair], cases: Sequence[Mapping[str, Any]], starts: Mapping[Pair, str]
    ) -> tuple[dict[Pair, PairResult], dict[Pair, Job]]:
        """The results of pairs that have one, or of which a file cannot be read, and the jobs of the others."""
        by_id: dict[str, Mapping[str, Any]] = {}
        for case in cases:
            if by_id.setdefault(case["case"], case)["image"] != case["image"]:
                both = f"{by_id[case['case']]['image']} and {case['image']}"
                raise SettingError(f"{case['case']} names two images, {both}; rename one of them.")
        if unknown := sorted({name for pair in pairs for name in pair} - set(by_id)):
            raise SettingError(f"plan: no such case: {first_few(unknown)}; the cases are {', '.join(by_id)}.")
        results: dict[Pair, PairResult] = {}
        jobs: dict[Pair, Job] = {}
        for pair in dict.fromkeys(pairs):
            try:
                two = by_id[pair.fixed], by_id[pair.moving]
                job = job_for(*two, self.attempts, self.limits, self.folder, starts.get(pair))
            except OSError as error:
                results[pair] = PairResult(*pair, message=str(error))
                continue
            if result := finished(job):
                results[pair] = result
            else:
                jobs[pair] = job
        return results, jobs

    def _at_once(self, jobs: int) -> int:
        """Number of pairs that are registered at the same time."""
        threads = sum(self._connected.nthreads().values()) if self._connected is not None else 1
        return max(1, min(threads, jobs))

    def _computed(self, jobs: Mapping[Pair, Job]) -> Iterator[tuple[Pair, PairResult, float | None]]:
        """Yield pairs, results and seconds (None for an error) as they are finished."""
        if not jobs:
            return
        if self.workers == 0 and self.dask_scheduler is None:
            for pair, job in jobs.items():
                try:
                    yield pair, *timed_job(job)
                except Exception as error:  # whatever the error, the other pairs continue
                    yield pair, PairResult(*pair, message=_message_of(error)), None
            return
        from dask.distributed import CancelledError, KilledWorker, as_completed

        with self:
            client = self._client(len(jobs))
            address = client.scheduler.address
            # a new name, since a scheduler that keeps running would return the result of an earlier run
            run = uuid.uuid4().hex
            futures = {
                client.submit(timed_job, job, key=f"register-{pair.fixed}-{pair.moving}-{run}"): pair
                for pair, job in jobs.items()
            }
            for future in as_completed(futures):
                pair = futures[future]
                seconds = None
                try:
                    result, seconds = future.result()
                except CancelledError as error:
                    raise SettingError(
                        f"dask_scheduler: the connection to {address} was lost; start it and this run again: finished "
                        "pairs are kept."
                    ) from error
                except KilledWorker:
                    result = PairResult(*pair, message=KILLED)
                except Exception as error:
                    result = PairResult(*pair, message=_message_of(error))
                yield pair, result, seconds

    def __enter__(self) -> PairRunner:
        """Keep the processes for several calls, since each takes seconds to load ITK."""
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
        if self._cluster is not None:  # grows with the number of pairs and never shrinks
            most = self.workers or min(_fitting_workers(), jobs)
            self._cluster.scale(max(most, len(self._cluster.worker_spec)))
        return self._connected

    def _connect(self) -> Any:
        import dask
        from dask.distributed import Client, LocalCluster
        from distributed import TimeoutError as NoWorkerError

        for name in [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "distributed"]:
            logging.getLogger(name).setLevel(logging.CRITICAL)  # it would log each start and end of a process
        if self.dask_scheduler is not None:
            try:
                client = self._open.enter_context(Client(self.dask_scheduler, timeout=10))
            except (OSError, ValueError) as error:
                raise SettingError(
                    f"dask_scheduler: {self.dask_scheduler} cannot be reached ({error}); start one with "
                    "'dask scheduler' and give its address as tcp://host:port, or leave --dask_scheduler out to work "
                    "on this machine."
                ) from error
            try:
                client.wait_for_workers(1, timeout=WORKER_TIMEOUT)
            except NoWorkerError as error:
                raise SettingError(
                    f"dask_scheduler: {self.dask_scheduler} has no workers; start some with "
                    f"'dask worker {self.dask_scheduler} --nthreads 1', which need this package and the same paths."
                ) from error
            return client
        # Each process uses one thread. Their number bounds the memory; a limit for each worker would kill the one that
        # registers a large pair. The ports are open to this machine only, because whoever reaches one can run code
        # here, and by default Dask opens its dashboard to all addresses.
        options = {"threads_per_worker": 1, "memory_limit": 0, "host": LOOPBACK, "dashboard_address": f"{LOOPBACK}:0"}
        # a process gets its next pair when it is free, since pairs with retries take longer
        scheduling = {"allowed-failures": TRIES - 1, "worker-saturation": 1.0}
        scheduling = {f"distributed.scheduler.{key}": value for key, value in scheduling.items()}
        # by default Dask's processes return freed memory at once, and its pages must be zeroed when they are reused; at
        # the end they would log the connections that they lose
        environment = {"MALLOC_TRIM_THRESHOLD_": None, "DASK_LOGGING__DISTRIBUTED": "critical"}
        scheduling |= {f"distributed.nanny.pre-spawn-environ.{key}": value for key, value in environment.items()}
        self._open.enter_context(dask.config.set(scheduling))
        logger.info("Starting processes, before the first pairs; this takes some seconds.")
        self._cluster = self._open.enter_context(LocalCluster(n_workers=0, **options))
        return self._open.enter_context(Client(self._cluster))


def registered_pairs(folder: Path, wanted: Container[Pair]) -> set[Pair]:
    """Those of the pairs that have a result in a folder, of whatever files and settings."""
    found = set()
    for file in folder.glob("*.transform"):
        try:
            row = read_notes(file)["row"]
            pair = Pair(row["fixed"], row["moving"])
        except (OSError, StorageError, KeyError):  # said where the file is needed
            continue
        if pair in wanted:
            found.add(pair)
    return found


def write_table(path: str | Path, results: Sequence[PairResult]) -> None:
    """Write the results of pairs as a CSV table, and log how many are usable."""
    write_csv(Path(path), [asdict(result) for result in results])
    states = Counter(result.state for result in results)
    counts = ", ".join(f"{states[state]} {state}" for state in ("usable", "unusable", "failed"))
    logger.info(f"{counted(len(results), 'pair')}: {counts}. Table: {path}")
    problems = [result for result in results if result.state != "usable"]
    for result in problems[:SHOWN]:
        logger.warning(f"  {result}, {result.message}")
    if len(problems) > SHOWN:
        logger.warning(f"  ... and {len(problems) - SHOWN} more in the table.")
    if results and states["failed"] == len(results):
        raise RegistrationError(
            f"None of {counted(len(results), 'pair')} was registered. The first one: {results[0].message}"
        )


def _fitting_workers() -> int:
    return max(1, min(core_count(), memory_limit() // MEMORY))


def _message_of(error: BaseException) -> str:
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
