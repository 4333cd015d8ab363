"""``consilium-server run``, ``resume`` and ``stop``: a run from its order to its report, followed while it lasts.

Promises
- A run goes on when nobody looks: whoever follows it may stop following.
- Where its process was killed it is started again from its journal, ``ATTEMPTS`` times; where it ended by a decision
  (too few sites, a plan that cannot be kept) it is not, and the reason is shown.
- A process that was killed with the whole machine does not stand in the way: its journal is free, so ``resume`` works.
- Of one run at most one process coordinates: the journal is locked, and a run that goes on is not started twice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from server.app import RUN
from server.deployed.live import Live, read_live
from server.deployed.run_folder import JOURNAL, RunFolder
from server.federation_folder import FederationFolder
from server.journal import is_open
from server.link.control import Control, FlowerRun
from server.link.places import LinkFolder
from shared.errors import CapacityError, RunError

ATTEMPTS = 5
_POLL_S = 0.5
_OVER = "finished"
_BEGINS_S = 30.0
"""Within which a process that was started has its journal open."""
_LEAST_FREE = 1 << 20
"""Bytes: below it neither the journal nor Flower's database can be written."""


@dataclass(frozen=True)
class Followed:
    """How a run ended: what it said last, or None where it never said anything."""

    live: Live | None
    outcome: str
    details: str

    @property
    def decided(self) -> bool:
        """Whether it ended by its own word."""
        return self.live is not None and self.live.state != "running"


Look = Callable[[Live], None]


def start(federation: FederationFolder, found: RunFolder) -> int:
    """Let the run begin, or go on; returns Flower's number for it.

    Raises:
        RunError: it goes on already.
        CapacityError: the disk is full.
    """
    _require_space(found)
    with _control(federation) as control:
        for one in control.runs():
            if one.config.get(RUN) == found.run and one.state != _OVER:
                if _goes_on(one, found):
                    raise RunError(
                        f"run {found.run[:12]} goes on already", hint="consilium-server status", code="run-goes-on"
                    )
                with suppress(RunError):  # Flower may have noticed meanwhile
                    control.stop_run(one.number)
        return control.start_run({RUN: found.run})


def follow(federation: FederationFolder, found: RunFolder, number: int, look: Look, clock: Callable[[], float]) -> Live:
    """Watch a run until it ends, starting it again where its process was killed.

    Raises:
        RunError: it ended and did not finish.
        CapacityError: the disk is full, and no process could even say so.
    """
    began, attempts = clock(), 1
    while True:
        followed = _until_it_ends(federation, found, number, began, look)
        if not followed.decided:
            _require_space(found)
        if followed.decided or attempts == ATTEMPTS or followed.outcome == "stopped":
            return _finished(followed, found.run)
        attempts, began, number = attempts + 1, clock(), start(federation, found)


def stop(federation: FederationFolder, run: str) -> None:
    """End the process of a run; it can be resumed. Raises ``RunError`` where it does not go on."""
    with _control(federation) as control:
        for one in control.runs():
            if one.config.get(RUN) == run and one.state != _OVER:
                control.stop_run(one.number)
                return
    raise RunError(f"run {run[:12]} does not go on", hint="consilium-server runs", code="run-over")


def said(federation: FederationFolder, run: str) -> Iterator[str]:
    """What the last process of a run has printed, until it ends; raises ``RunError`` where there was none."""
    with _control(federation) as control:
        newest = next((one.number for one in control.runs() if one.config.get(RUN) == run), None)
        if newest is None:
            raise RunError(f"run {run[:12]} was never started here", hint="consilium-server resume", code="run-over")
        yield from (text for text, _ in control.log(newest))


def _until_it_ends(federation: FederationFolder, found: RunFolder, number: int, began: float, look: Look) -> Followed:
    seen: Live | None = None
    while True:
        state = _state(federation, number)
        if state is None:
            _require_space(found)
        live = read_live(found.path)
        # What was written before this attempt is the last one's word.
        fresh = live if live is not None and live.updated >= began else None
        if fresh is not None and fresh != seen:
            look(fresh)
            seen = fresh
        if state is not None and state.state == _OVER:
            return Followed(fresh, state.outcome, state.details)
        time.sleep(_POLL_S)


def _state(federation: FederationFolder, number: int) -> FlowerRun | None:
    """How Flower sees the run; None while the gateway is being started again."""
    try:
        with _control(federation) as control:
            return control.run(number)
    except RunError as error:
        if error.code == "no-run":
            raise
        return None


def _require_space(found: RunFolder) -> None:
    free = shutil.disk_usage(found.path).free
    if free < _LEAST_FREE:
        raise CapacityError(
            f"the disk is full: {free} bytes are free where run {found.run[:12]} is kept",
            hint=f"free some space, then consilium-server resume {found.run[:12]}: nothing that was finished is lost",
            code="disk-full",
        )


def _goes_on(one: FlowerRun, found: RunFolder) -> bool:
    """Whether a process coordinates the run, or soon will.

    Flower notices only after a minute or more that a process was killed; its journal is free at once.
    """
    end = time.monotonic() + _BEGINS_S
    while one.state != "pending" and not is_open(found.path / JOURNAL):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True


def _finished(followed: Followed, run: str) -> Live:
    live = followed.live
    if live is not None and live.state == "finished":
        return live
    hint = (live.hint if live else "") or f"consilium-server resume {run[:12]} goes on from the last finished round"
    ended = "it was stopped" if followed.outcome == "stopped" else f"its process ended ({followed.outcome or 'killed'})"
    said = live.sentence if live and live.sentence else ended
    raise RunError(f"run {run[:12]} did not finish: {said}", hint=hint, code="run-ended")


@contextmanager
def _control(federation: FederationFolder) -> Iterator[Control]:
    with Control.of(LinkFolder(federation.path)) as control:
        yield control
