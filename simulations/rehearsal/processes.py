"""The processes of a rehearsal: the installed commands, each in its own session, ended with the block that began them.

Promises
- A command that fails ends the rehearsal with its own words.
- ``kill`` ends a whole session at once (SIGKILL), as a machine that loses its power does.
- What still runs when the block ends, however it ends, is stopped by process group; nothing else is touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from shared.environment import settings
from shared.errors import ScenarioError

_LONGEST_S = 600.0
_GRACE_S = 20.0


@dataclass
class Processes:
    """What runs.

    Attributes:
        logs: folder for what long-running commands say.
    """

    logs: Path
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def call(self, command: str, *arguments: str, folder: Path) -> str:
        """Run an installed command to its end in ``folder`` and give its stdout; raises ``ScenarioError``."""
        done = subprocess.run(  # noqa: S603 - our own commands
            [_installed(command), *arguments],
            cwd=folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
        if done.returncode:
            called, said = " ".join((command, *arguments[:1])), " ".join(done.stderr.strip().splitlines()[-2:])
            raise ScenarioError(
                f"{called} ended with {done.returncode}{f': {said}' if said else ''}", hint=f"in {folder}"
            )
        return done.stdout

    def start(self, name: str, command: Sequence[str], folder: Path) -> None:
        """Begin a command that lasts; what it says goes to ``logs/NAME.log``."""
        with (self.logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603
                [_installed(command[0]), *command[1:]],
                cwd=folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self, name: str) -> int | None:
        """Exit code of a command that has ended by itself; None while it runs."""
        return self._running[name].poll()

    def kill(self, name: str) -> None:
        """``kill -9`` of the command and of all that it has started."""
        process = self._running.pop(name)
        for pid in _family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> None:
        """End a command as Ctrl-C does, and wait for it."""
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            for pid in _family(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()


@contextmanager
def processes(logs: Path) -> Iterator[Processes]:
    """Processes that end with the block."""
    logs.mkdir(parents=True, exist_ok=True)
    found = Processes(logs)
    try:
        yield found
    finally:
        for name in reversed(list(found._running)):  # noqa: SLF001 - its own maker
            found.stop(name)


def _installed(command: str) -> str:
    return str(Path(sys.executable).parent / command)


def _environment() -> Mapping[str, str]:
    return {**os.environ, **settings(os.environ)}


def _family(root: int) -> list[int]:
    """``root`` and everything that descends from it now, parents first."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
