"""Processes that carry out jobs, of which any may die without stopping the others.

Promises
- ``work_through`` yields each job once with its answer, in the order in which they are done. A job whose process died,
  or did not answer in time, is tried again in smaller parts; a part that cannot be divided comes back as ``Lost``. A
  native decoder that crashes on one file therefore costs that file.
- What a job raises ends the work and leaves here as it is; no process outlives the call, or its parent.
- With one worker there is no other process: jobs run here, one after the other, and a crash is a crash.

What a job is, and how it is divided, is the caller's.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

Job = TypeVar("Job")
Answer = TypeVar("Answer")

PATIENCE_S = 900.0
"""How long a process may be silent: decoding a thousand slices of JPEG 2000 over a slow share takes a minute or two."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The answer to a job that ended its process, or did not end in time."""

    why: str


@dataclass(frozen=True, slots=True)
class Trade(Generic[Job, Answer]):
    """What workers do.

    Attributes:
        start: opens what a worker keeps while it lives and gives the function that carries out a job. Crosses to other
            processes, so it is a function of a module, or a frozen value with ``__call__``.
        parts: smaller jobs that make up a job; the job alone where it cannot be divided.
    """

    start: Callable[[], AbstractContextManager[Callable[[Job], Answer]]]
    parts: Callable[[Job], Sequence[Job]]


@dataclass(frozen=True, slots=True, eq=False)
class _Worker(Generic[Job]):
    process: BaseProcess
    line: Connection
    job: Job
    since: float


def work_through(
    jobs: Sequence[Job], trade: Trade[Job, Answer], workers: int, patience_s: float = PATIENCE_S
) -> Iterator[tuple[Job, Answer | Lost]]:
    """Carry out ``jobs`` on a number of processes; yield (job, answer) as they are done."""
    if workers <= 1:
        with trade.start() as work:
            for job in jobs:
                yield job, work(job)
        return
    todo, busy = deque(jobs), list[_Worker[Job]]()
    try:
        while todo or busy:
            while todo and len(busy) < workers:
                busy.append(_hire(trade, todo.popleft()))
            for worker in _ready(busy, patience_s):
                busy.remove(worker)
                answer = _answer(worker, patience_s)
                parts = trade.parts(worker.job) if isinstance(answer, Lost) else ()
                if len(parts) > 1:
                    todo.extendleft(reversed(parts))
                else:
                    yield worker.job, answer
                if not isinstance(answer, Lost):
                    busy += _next_job(worker, todo)
    finally:
        for worker in busy:
            worker.process.kill()


def _hire(trade: Trade[Job, Answer], job: Job) -> _Worker[Job]:
    context = multiprocessing.get_context("forkserver")
    # What reading needs is imported once, by a process that does nothing else, and shared by all workers.
    context.set_forkserver_preload(["client.data.ingest.read_case"])
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(trade.start, there), daemon=True)
    # Ctrl-C reaches the whole group of processes; only this one answers it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # Held open here too, a line would not end when its worker does.
    there.close()
    here.send(job)
    return _Worker(process, here, job, time.monotonic())


def _serve(start: Callable[[], AbstractContextManager[Callable[[Job], Answer]]], line: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    try:
        with start() as work:
            while (job := line.recv()) is not None:
                line.send(work(job))
    except (BrokenPipeError, EOFError):
        return  # the parent has gone, or wants no more
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent raises it
        with suppress(BrokenPipeError):
            line.send(error)


def _end_with_parent() -> None:
    """A parent that was killed ends nobody: its end of the line may be held open by a sister process."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - only workers come here
    parent.join()
    os._exit(1)


def _ready(busy: Sequence[_Worker[Job]], patience_s: float) -> list[_Worker[Job]]:
    """Workers that have answered, died, or been silent for too long; at least one."""
    oldest = min(worker.since for worker in busy)
    lines = wait([worker.line for worker in busy], timeout=max(0.0, oldest + patience_s - time.monotonic()))
    late = time.monotonic() - patience_s
    return [worker for worker in busy if worker.line in lines or worker.since <= late]


def _answer(worker: _Worker[Job], patience_s: float) -> Answer | Lost:
    """What the worker has sent; raises what its job raised."""
    if not worker.line.poll():
        worker.process.kill()
        return Lost(f"gave no answer in {patience_s:g} s")
    try:
        answer: Answer | Exception = worker.line.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        return Lost(f"ended its process (status {worker.process.exitcode})")
    if isinstance(answer, Exception):
        raise answer
    return answer


def _next_job(worker: _Worker[Job], todo: deque[Job]) -> list[_Worker[Job]]:
    """The worker with another job; none where nothing is left, and the worker goes home."""
    if not todo:
        worker.line.send(None)
        # Whoever goes home flushes first: what it wrote was promised already, what it holds open is closed in peace.
        worker.process.join()
        return []
    job = todo.popleft()
    worker.line.send(job)
    return [_Worker(worker.process, worker.line, job, time.monotonic())]
