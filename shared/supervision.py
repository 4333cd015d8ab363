"""Keeping processes running: started in order, restarted with patience, ended together.

Promises
- A process that ends is started again after a pause, which doubles from ``FIRST_PAUSE_S`` to ``LONGEST_PAUSE_S`` and
  begins anew once it has run for ``HEALTHY_S``. Exit codes that mean something have their own sentence and pause; for
  others the last ``error:`` that the process printed is told. One that cannot be started is tried again like that, too.
- Whoever is told to stop stops the processes in reverse order: asked first (SIGTERM), made to after ``GRACE_S``.
- A process whose supervisor was killed is ended by the kernel (Linux), so nothing is left behind that nobody watches.
- What a process prints goes to its own file, for the owner alone, which is put aside once it is larger than
  ``LARGEST_LOG``.

Which processes, and what their exit codes mean, is their owner's to say.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from shared.errors import ConsiliumError
from shared.logs import Log

FIRST_PAUSE_S, LONGEST_PAUSE_S, HEALTHY_S, GRACE_S = 0.5, 60.0, 60.0, 10.0
LARGEST_LOG = 10 << 20
_TICK_S, _ERROR = 0.1, "error: "
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an exit code says, and how long to wait before the next attempt."""

    sentence: str
    pause_s: float


@dataclass(frozen=True, slots=True)
class Command:
    """What to start; ``environment`` is all of it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def running(_pid: int) -> bool:
    """For a process that is ready as soon as it runs."""
    return True


@dataclass(frozen=True)
class Program:
    """A process to keep running.

    Attributes:
        name: for people, and of its log file.
        command: gives what to start, asked before each attempt.
        log: file that its output is added to.
        meanings: of its exit codes.
        ready: whether the process with this number does its work; asked until it does, before the next one is started.
    """

    name: str
    command: Callable[[], Command]
    log: Path
    meanings: Mapping[int, Meaning] = field(default_factory=dict)
    ready: Callable[[int], bool] = running


@dataclass(frozen=True, slots=True)
class News:
    """What has happened to a process.

    Attributes:
        program: its name.
        kind: what happened.
        sentence: the same for people.
        code: with which it ended, negative for a signal; None while it runs, or where it could not be started.
    """

    program: str
    kind: Literal["started", "ready", "ended", "stopped"]
    sentence: str
    code: int | None = None


def noting(log: Log, tell: Callable[[News], None]) -> Callable[[News], None]:
    """``tell``, after a line in ``log``; a full disk costs the line and stops nothing."""

    def both(news: News) -> None:
        ended = {} if news.code is None else {"exit": news.code}
        with suppress(OSError):
            log.say(f"program-{news.kind}", program=news.program, **ended)
        tell(news)

    return both


@dataclass
class _Kept:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    logged: int = 0
    again_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    ready: bool = False


@dataclass
class Supervisor:
    """Keeps ``programs`` running until ``stop`` is set.

    Attributes:
        programs: in the order in which they are started; each waits until the one before it is ready.
        tell: called with what happens, in the thread of ``run``.
        stop: set it to end.
    """

    programs: Sequence[Program]
    tell: Callable[[News], None]
    stop: threading.Event = field(default_factory=threading.Event)
    _kept: list[_Kept] = field(default_factory=list, init=False)

    def run(self) -> None:
        """Start, watch and restart, until ``stop`` is set; then end everything."""
        self._kept = [_Kept(program) for program in self.programs]
        try:
            while not self.stop.wait(_TICK_S):
                for kept in self._kept:
                    self._look_after(kept)
                    if not kept.ready:
                        break
        finally:
            for kept in reversed(self._kept):
                self._end(kept)

    def pids(self) -> dict[str, int]:
        """Process numbers of what runs now, by name."""
        return {kept.program.name: kept.process.pid for kept in self._kept if kept.process is not None}

    def _look_after(self, kept: _Kept) -> None:
        if kept.process is None:
            if time.monotonic() >= kept.again_at:
                self._start(kept)
            return
        code = kept.process.poll()
        if code is not None:
            self._ended(kept, code)
        elif not kept.ready and kept.program.ready(kept.process.pid):
            kept.ready = True
            self.tell(News(kept.program.name, "ready", f"{kept.program.name} is ready"))

    def _start(self, kept: _Kept) -> None:
        program = kept.program
        try:
            process = _begun(kept)
        except (OSError, subprocess.SubprocessError, ConsiliumError) as error:
            said = error.sentence if isinstance(error, ConsiliumError) else _why(error)
            self._try_again(kept, f"{program.name} could not be started: {said}", None, kept.pause_s)
            kept.pause_s = min(2 * kept.pause_s, LONGEST_PAUSE_S)
            return
        kept.process, kept.began, kept.ready = process, time.monotonic(), False
        self.tell(News(program.name, "started", f"{program.name} runs as process {process.pid}"))

    def _ended(self, kept: _Kept, code: int) -> None:
        if time.monotonic() - kept.began > HEALTHY_S:
            kept.pause_s = FIRST_PAUSE_S
        meaning = kept.program.meanings.get(code)
        said = meaning.sentence if meaning else _last_error(kept.program.log, kept.logged) or _in_words(code)
        pause_s = meaning.pause_s if meaning else kept.pause_s
        self._try_again(kept, f"{kept.program.name} ended: {said}", code, pause_s)
        if meaning is None:
            kept.pause_s = min(2 * kept.pause_s, LONGEST_PAUSE_S)

    def _try_again(self, kept: _Kept, sentence: str, code: int | None, pause_s: float) -> None:
        kept.process, kept.ready, kept.again_at = None, False, time.monotonic() + pause_s
        self.tell(News(kept.program.name, "ended", f"{sentence}; next attempt in {pause_s:g} s", code))

    def _end(self, kept: _Kept) -> None:
        process = kept.process
        if process is None:
            return
        _signal(process, signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
        # Its own children may outlive it: the session is one group.
        _signal(process, signal.SIGKILL)
        kept.process = None
        self.tell(News(kept.program.name, "stopped", f"{kept.program.name} was stopped", process.returncode))


def _begun(kept: _Kept) -> subprocess.Popen[bytes]:
    command = kept.program.command()
    with _log(kept.program.log) as log:
        kept.logged = log.seek(0, os.SEEK_END)
        return subprocess.Popen(  # noqa: S603 - what we are told to start
            command.argv,
            env=dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call to the kernel, safe after a fork
        )


def _why(error: Exception) -> str:
    """Without the path that an ``OSError`` names."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _last_error(log: Path, start: int) -> str:
    """The last ``error:`` in a log from ``start`` on; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            lines = file.read(LARGEST_LOG).decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix(_ERROR) for line in reversed(lines) if line.startswith(_ERROR)), "")


def _in_words(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _log(path: Path) -> IO[bytes]:
    if path.exists() and path.stat().st_size > LARGEST_LOG:
        path.replace(path.with_name(path.name + ".1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
