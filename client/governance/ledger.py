"""The privacy ledger of a site: what every released update and statistic cost, append-only.

Promises
- A ledger is an SQLite file whose rows can be added, never changed or removed: triggers refuse anything else,
  ``replace`` included, whose deletion SQLite hides from delete triggers (https://sqlite.org/lang_conflict.html).
- A row says what was done (a cohort, a plan, a round, a mechanism with its parameters), not what it costs, so that the
  cost can be computed again by better accounting.

This version writes no rows: no plan with ``[privacy] unit = "patient"`` can be started yet. The ledger is made with the
site folder, so that a cohort has one from its first day. Reserving, composing and refusing are not built yet.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

_LAYOUT = """
begin;
create table events (
    number integer primary key, at text not null, cohort text not null, plan text not null, round integer not null,
    mechanism text not null, parameters text not null);
create trigger events_update before update on events begin select raise(abort, 'the ledger is append-only'); end;
create trigger events_delete before delete on events begin select raise(abort, 'the ledger is append-only'); end;
create trigger events_replace before insert on events when new.number in (select number from events)
begin select raise(abort, 'the ledger is append-only'); end;
commit;
"""


def create(path: Path) -> None:
    """Make an empty ledger, readable by its owner alone, durable; raises ``FileExistsError`` rather than touch one."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"pragma journal_mode=wal; pragma synchronous=full; {_LAYOUT}")
