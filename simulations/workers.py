"""The sites of a simulation, in this process or spread over a few.

Promises
- ``Sites`` answers for any site by name. A process builds its workbench once and opens a site's store when it is first
  asked; it keeps memory maps and not images, so memory does not grow with the number of sites.
- ``Pool`` runs the same work on one or more processes. What comes back does not depend on how many: a reply is a
  function of the request and the site's frozen data, and every process computes with one thread.
- Ctrl-C reaches the parent alone. Workers end with it at once, however it ends, in the middle of their work if need be.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from client.data.cohort.files import load
from client.data.cohort.manifest import Cohort
from client.data.dataset import Dataset
from client.data.prepared.site_data import load_site_data
from client.data.prepared.store import Store
from client.site import Site
from client.workbench import Workbench
from shared.crypto.signing import SigningKey
from shared.errors import CapacityError
from shared.plan import Plan
from simulations.protection import NoiseKind, guard_for

Result = TypeVar("Result")

OWN = "sites"
"""Folder of the models that sites keep for themselves."""
SITES_DATA = "sites-data"
"""Folder of the sites' data sets, one each: archive, frozen cohort, prepared cases."""
KEY = "signing.pem"
"""File in a site's data set with the key that signs its cohorts."""


@dataclass(frozen=True)
class SiteSpec:
    """A simulated site and its data.

    Attributes:
        name: as enrolled.
        data: folder of its data set (``client.data.dataset``).
        cohort: digest of the frozen cohort that it trains on.
        store: folder of its prepared cases.
    """

    name: str
    data: Path
    cohort: str
    store: Path


@dataclass
class Sites:
    """The sites of a federation, as one process sees them."""

    plan: Plan
    folder: Path
    weights_folder: Path | None = None
    noise: NoiseKind = "secure"
    _workbench: Workbench | None = field(default=None, init=False)
    _sites: dict[str, Site] = field(default_factory=dict, init=False)

    @property
    def workbench(self) -> Workbench:
        """The plan's network and task, built when first needed."""
        if self._workbench is None:
            self._workbench = Workbench.for_plan(self.plan, self.weights_folder)
        return self._workbench

    def site(self, spec: SiteSpec) -> Site:
        """The site of ``spec``, opened when first needed; raises ``SiteDataError`` where it has too little data."""
        if spec.name not in self._sites:
            cohort = self.cohort(spec)
            data = load_site_data(self.store(spec), cohort, self.plan)
            guard = guard_for(spec.name, spec.data, cohort, self.plan, self.noise)
            self._sites[spec.name] = Site(spec.name, data, self.workbench, self.folder / OWN / spec.name, guard)
        return self._sites[spec.name]

    def store(self, spec: SiteSpec) -> Store:
        """The prepared cases of ``spec``, usable for a plan or not."""
        return Store.open(spec.store, verify="on-use")

    def cohort(self, spec: SiteSpec) -> Cohort:
        """The frozen cohort of ``spec``; raises ``SiteDataError`` where it is not what the site signed."""
        return site_cohort(spec.data, spec.cohort)


def site_cohort(folder: Path, digest: str) -> Cohort:
    """The cohort with ``digest`` of the site whose data set lies in ``folder``, as it was signed."""
    return load(Dataset(folder).cohorts, SigningKey.load(folder / KEY).verify_key, digest)


_here: Sites | None = None
"""The sites of this worker process; set once by ``_start`` and never in the parent."""


def _start(sites: Sites) -> None:
    global _here  # noqa: PLW0603 - a pool's initializer has no other way to leave something for its tasks
    # Ctrl-C is the parent's: a fork server that somebody else has started hands on a mask that is not ours.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    torch.set_num_threads(1)
    _here = sites


def _end_with_parent() -> None:
    """A parent that was killed ends nobody, and workers hold both ends of the queue that they wait at."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - only workers come here
    parent.join()
    os._exit(1)


def _call(work: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    assert _here is not None  # noqa: S101 - the initializer ran
    return work(_here, *arguments)


class Pool:
    """Runs ``work(sites, *arguments)`` on a number of processes; with one, in this process."""

    def __init__(self, sites: Sites, workers: int) -> None:
        self.sites = sites
        self.workers = workers
        torch.set_num_threads(1)
        context = multiprocessing.get_context("forkserver")
        # Torch and MONAI are imported once, by a process that does nothing else, and shared by all workers.
        context.set_forkserver_preload([__name__])
        # A copy: workers start when they are needed, and what is open here by then can be neither sent nor shared.
        own = (replace(sites),)
        self._executor = (
            ProcessPoolExecutor(workers, context, initializer=_start, initargs=own) if workers > 1 else None
        )

    def __enter__(self) -> Pool:
        """Use as a context manager, so that processes end with the block."""
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        """End the workers: at once after an error, else when they are done."""
        if self._executor is None:
            return
        if kind is not None:
            # Python 3.14 has terminate_workers for this; without it, leaving waits for work that nobody wants.
            for worker in list((self._executor._processes or {}).values()):  # noqa: SLF001
                worker.terminate()
        self._executor.shutdown(cancel_futures=True)

    def each(
        self, work: Callable[..., Result], arguments: Mapping[str, tuple[Any, ...]], deadline_s: float | None = None
    ) -> Iterator[tuple[str, Result]]:
        """Run ``work(sites, *arguments[key])`` for each key; yield (key, result) as they finish, until the deadline."""
        end = time.monotonic() + deadline_s if deadline_s is not None else float("inf")
        if self._executor is None:
            for key, values in arguments.items():
                result = work(self.sites, *values)
                if time.monotonic() > end:
                    return
                yield key, result
            return
        try:
            with _ctrl_c_held_back():
                futures = {self._executor.submit(_call, work, values): key for key, values in arguments.items()}
            yield from _as_they_finish(futures, end)
        except BrokenProcessPool:
            raise CapacityError(
                "a worker process was killed from outside",
                hint="if memory ran out, use fewer --workers; then go on with --resume",
                code="worker-killed",
            ) from None


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Submitting starts processes, which inherit what is blocked here and keep it; here it arrives a moment later."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _as_they_finish(futures: Mapping[Future[Result], str], end: float) -> Iterator[tuple[str, Result]]:
    pending = set(futures)
    while pending:
        left = None if end == float("inf") else max(0.0, end - time.monotonic())
        done, pending = wait(pending, timeout=left, return_when=FIRST_COMPLETED)
        if not done:
            return
        for future in sorted(done, key=lambda finished: futures[finished]):
            yield futures[future], future.result()


def default_workers(device: torch.device) -> int:
    """One process per core on a CPU; one process where sites share a GPU."""
    return 1 if device.type == "cuda" else len(os.sched_getaffinity(0))
