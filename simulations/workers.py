"""The sites of a simulation, in this process or spread over a few.

Promises
- ``Sites`` answers for any site by name. A process builds its workbench once and opens a site's store when it is first
  asked; it keeps memory maps and not images, so memory does not grow with the number of sites.
- ``Pool`` runs the same work on one or more processes. What comes back does not depend on how many: a reply is a
  function of the request and the site's frozen data, and every process computes with one thread.
- Ctrl-C reaches the parent alone; workers end with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from client.data.site_data import load_site_data
from client.data.store import Store
from client.site import Site
from client.workbench import Workbench
from shared.plan import Plan

Result = TypeVar("Result")


@dataclass(frozen=True)
class SiteSpec:
    """Where a simulated site keeps its prepared cases."""

    name: str
    store: Path


@dataclass
class Sites:
    """The sites of a federation, as one process sees them."""

    plan: Plan
    folder: Path
    weights_folder: Path | None = None
    _workbench: Workbench | None = None
    _sites: dict[str, Site] = field(default_factory=dict)

    @property
    def workbench(self) -> Workbench:
        """The plan's network and task, built when first needed."""
        if self._workbench is None:
            self._workbench = Workbench.for_plan(self.plan, self.weights_folder)
        return self._workbench

    def site(self, spec: SiteSpec) -> Site:
        """The site of ``spec``, opened when first needed; raises ``SiteDataError`` when it has too little usable data."""
        if spec.name not in self._sites:
            data = load_site_data(self.store(spec), self.plan, spec.name)
            self._sites[spec.name] = Site(spec.name, data, self.workbench, self.folder / "sites" / spec.name)
        return self._sites[spec.name]

    def store(self, spec: SiteSpec) -> Store:
        """The prepared cases of ``spec``, usable for a plan or not."""
        return Store.open(spec.store, verify="on-use")


_here: Sites | None = None
"""The sites of this worker process; set once by ``_start`` and never in the parent."""


def _start(sites: Sites) -> None:
    global _here  # noqa: PLW0603 - a pool's initializer has no other way to leave something for its tasks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _here = sites


def _call(work: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    assert _here is not None  # noqa: S101 - the initializer ran
    return work(_here, *arguments)


class Pool:
    """Runs ``work(sites, *arguments)`` on a number of processes; with one, in this process."""

    def __init__(self, sites: Sites, workers: int) -> None:
        self.sites = sites
        self.workers = workers
        torch.set_num_threads(1)
        context = multiprocessing.get_context("spawn")
        self._executor = (
            ProcessPoolExecutor(workers, context, initializer=_start, initargs=(sites,)) if workers > 1 else None
        )

    def __enter__(self) -> Pool:
        """Use as a context manager, so that processes end with the block."""
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        """End the workers: at once after an error, else when they are done."""
        if self._executor is not None:
            self._executor.shutdown(wait=kind is None, cancel_futures=True)

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
        futures = {self._executor.submit(_call, work, values): key for key, values in arguments.items()}
        yield from _as_they_finish(futures, end)


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
