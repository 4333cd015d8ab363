"""How every command starts and ends.

Promises
- Exit status 0: done; 1: refused, failed or interrupted; 2: used wrongly.
- A failure prints ``error:`` and, where there is one, ``hint:`` to stderr; never a traceback for what Consilium knows.
  Wrong usage is one such failure: its hint is the command's ``--help``.
- Data goes to stdout, talk to stderr. Third parties' telemetry is off before anything of theirs is imported.
"""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

import click
import typer
import typer.core

from shared.environment import silence_third_parties
from shared.errors import ConsiliumError, PolicyError

_INTERRUPTED = 130
"""What Typer returns for Ctrl-C where it does not end the process itself."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def run(app: typer.Typer, resume_hint: str = "") -> None:
    """Run a command line application and leave the process with its exit status."""
    silence_third_parties()
    # Typer 0.20 escapes the brackets of plain help as if rich would print it.
    typer.core.HAS_RICH = False
    try:
        status = app(standalone_mode=False) or 0
    except ConsiliumError as error:
        fail(error.sentence, error.hint)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        fail(error.format_message(), f"{error.ctx.command_path} --help" if error.ctx else "", status=2)
    except (KeyboardInterrupt, click.Abort):
        status = _INTERRUPTED
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        fail("the disk is full", "free some space and run the same command again; nothing that was finished is lost")
    if status == _INTERRUPTED:
        fail("interrupted", resume_hint)
    sys.exit(status)


_COMPARE = "compare the words by telephone; a script that has compared them says --yes"


def require_yes(question: str, hint: str = _COMPARE) -> None:
    """Return if whoever sits at the terminal says yes; raises ``PolicyError`` where they do not, or nobody does."""
    # Click's own question writes a space to stdout, even where it is told to ask on stderr.
    typer.echo(f"{question} [y/N]: ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise PolicyError(
            "not confirmed: nothing was changed",
            hint=hint,
            code="not-confirmed",
        )


def fail(sentence: str, hint: str, status: int = 1) -> NoReturn:
    """Print error and hint to stderr and leave with ``status``."""
    sys.stderr.write(f"error: {sentence}\n")
    if hint:
        sys.stderr.write(f"hint:  {hint}\n")
    sys.exit(status)
