"""How every command starts and ends.

Promises
- Exit status 0: done; 1: refused, failed or interrupted; 2: used wrongly.
- A failure prints ``error:`` and, where there is one, ``hint:`` to stderr; never a traceback for what Consilium knows.
- Data goes to stdout, talk to stderr. Third parties' telemetry is off before anything of theirs is imported.
"""

from __future__ import annotations

import errno
import sys

import click
import typer

from shared.environment import silence_third_parties
from shared.errors import ConsiliumError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def run(app: typer.Typer, resume_hint: str = "") -> None:
    """Run a command line application and leave the process with its exit status."""
    silence_third_parties()
    try:
        app(standalone_mode=False)
    except ConsiliumError as error:
        fail(error.sentence, error.hint)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted", resume_hint)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        fail("the disk is full", "free some space and run the same command again; nothing that was finished is lost")
    sys.exit(0)


def fail(sentence: str, hint: str) -> None:
    """Print error and hint to stderr and leave with status 1."""
    sys.stderr.write(f"error: {sentence}\n")
    if hint:
        sys.stderr.write(f"hint:  {hint}\n")
    sys.exit(1)
