"""The rows of a ledger, read and added inside a transaction of ``ledger_layout``.

Promises
- Every number comes from rows; nothing is remembered between calls.
- Who paid what is found by one pass over a cohort's patients, and by none where no other cohort has paid anything: a
  hundred thousand patients in a few cohorts take less than a second.
- ``everything`` leaves ``alone`` out of a row where it is 0: the digest of such a row is what it was before there was
  that column, and digests that were written into an audit log still hold.

Rules are left to ``ledger``, costs to ``spending``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from client.governance.spending import Account, Claim, CohortPatients, Shared, Spent, merged
from shared.messages import Split
from shared.privacy.events import Event

Pair = tuple[int, str]
"""(number of a cohort, split)."""

_ADD_RESERVATION = """
insert into reservations (
    at, cohort, split, run, plan, round, purpose, request, noise_multiplier, sampling_rate, steps, alone)
values (?,?,?,?,?,?,?,?,?,?,?,?)"""
_GRANTED = """
select number, request, noise_multiplier, sampling_rate, steps, alone, reply
from reservations left join releases on reservation = number
where (cohort, split, run, plan, round, purpose) = (?,?,?,?,?,?)"""
_PAID = """
select cohort, split, reservation is not null, noise_multiplier, sampling_rate, sum(steps), alone
from reservations left join releases on reservation = number group by 1, 2, 3, 4, 5, 7"""
_ALSO_IN = """
select distinct pairs from (
    select group_concat(other.cohort || ' ' || other.split) as pairs
    from members as own join members as other using (patient)
    where own.cohort = ? and own.split = ? and other.cohort != own.cohort
        and (other.cohort, other.split) in (select cohort, split from reservations)
    group by own.patient)"""
_SHARED = """
select digest, dataset, count(*) from members as own join members as other using (patient)
join cohorts on cohorts.number = other.cohort
where own.cohort = ? and other.cohort < own.cohort group by other.cohort order by other.cohort"""
_EVERYTHING = {
    "cohorts": "select * from cohorts order by number",
    "members": "select * from members order by cohort, patient",
    "reservations": "select * from reservations order by number",
    "releases": "select * from releases order by reservation",
}


@dataclass(frozen=True, slots=True)
class Granted:
    """A reservation; ``reply`` is None until something left."""

    number: int
    request: str
    event: Event
    reply: str | None


def cohorts(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """(digest, data set) in the order of enrolment."""
    return connection.execute("select digest, dataset from cohorts order by number").fetchall()


def number_of(connection: sqlite3.Connection, digest: str) -> int | None:
    """Number of a cohort; None where it is not enrolled."""
    row = connection.execute("select number from cohorts where digest = ?", (digest,)).fetchone()
    return None if row is None else int(row[0])


def members(connection: sqlite3.Connection, cohort: int) -> set[tuple[str, str]]:
    """(split, patient) of everybody in a cohort."""
    return set(connection.execute("select split, patient from members where cohort = ?", (cohort,)))


def shared(connection: sqlite3.Connection, cohort: int) -> tuple[Shared, ...]:
    """Earlier cohorts that have patients in common with ``cohort``."""
    return tuple(Shared(*row) for row in connection.execute(_SHARED, (cohort,)))


def add_cohort(connection: sqlite3.Connection, cohort: CohortPatients, at: str) -> int:
    """A new cohort with its patients; gives its number."""
    row = (cohort.digest, cohort.dataset, at)
    number = connection.execute("insert into cohorts (digest, dataset, at) values (?,?,?)", row).lastrowid
    rows = ((number, patient, split) for split, patient in sorted(cohort.pairs()))
    connection.executemany("insert into members (cohort, patient, split) values (?,?,?)", rows)
    return int(number or 0)


def granted(connection: sqlite3.Connection, cohort: int, claim: Claim) -> Granted | None:
    """What was reserved under the name of ``claim``."""
    name = (cohort, claim.split, claim.run, claim.plan, claim.round, claim.purpose)
    row = connection.execute(_GRANTED, name).fetchone()
    if row is None:
        return None
    number, request, *mechanism, reply = row
    return Granted(number, request, Event(*mechanism), reply)


def add_reservation(connection: sqlite3.Connection, cohort: int, claim: Claim, event: Event, at: str) -> int:
    """A new reservation; gives its number."""
    name = (cohort, claim.split, claim.run, claim.plan, claim.round, claim.purpose, claim.request)
    mechanism = (event.noise_multiplier, event.sampling_rate, event.steps, event.alone)
    return int(connection.execute(_ADD_RESERVATION, (at, *name, *mechanism)).lastrowid or 0)


def reply_of(connection: sqlite3.Connection, number: int) -> str | None:
    """SHA-256 of what left for a reservation, "" where nothing has; None where there is no such reservation."""
    found = "select coalesce(reply, '') from reservations left join releases on reservation = number where number = ?"
    row = connection.execute(found, (number,)).fetchone()
    return None if row is None else str(row[0])


def add_release(connection: sqlite3.Connection, number: int, reply: str, at: str) -> None:
    """That the reply to a reservation leaves."""
    connection.execute("insert into releases (reservation, at, reply) values (?,?,?)", (number, at, reply))


def spent(connection: sqlite3.Connection, cohort: int, split: Split) -> Spent:
    """What patients of a split have paid, in this cohort and in others."""
    paid = _paid(connection)
    own: Pair = (cohort, split)
    classes = {frozenset({own})}
    # Most hospitals have one cohort that pays: then nobody has to be looked up.
    if any(other != cohort for other, _ in paid):
        also = connection.execute(_ALSO_IN, own)
        classes |= {frozenset({own, *map(_pair, pairs.split(","))}) for (pairs,) in also}
    most = [one for one in classes if not any(one < other for other in classes)]
    others = sorted({number for one in most for number, _ in one} - {cohort})
    return Spent(
        own=paid.get(own, Account()),
        accounts=tuple(_together(paid, one) for one in sorted(most, key=sorted)),
        inherited=tuple(_digest(connection, number) for number in others),
    )


def everything(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """All rows, each after the name of its table, in one order; a reservation without ``alone`` where that is 0."""
    for table, select in _EVERYTHING.items():
        for row in connection.execute(select):
            yield (table, *(row[:-1] if table == "reservations" and row[-1] == 0 else row))


def _paid(connection: sqlite3.Connection) -> Mapping[Pair, Account]:
    """What was paid for each split of each cohort that paid anything."""
    events: dict[Pair, tuple[list[Event], list[Event]]] = {}
    for cohort, split, left, *mechanism in connection.execute(_PAID):
        reserved_released = events.setdefault((cohort, split), ([], []))
        reserved_released[left].append(Event(*mechanism))
    return {pair: Account(merged(released), merged(reserved)) for pair, (reserved, released) in events.items()}


def _together(paid: Mapping[Pair, Account], pairs: frozenset[Pair]) -> Account:
    accounts = [paid[pair] for pair in pairs if pair in paid]
    return Account(
        merged(event for account in accounts for event in account.released),
        merged(event for account in accounts for event in account.reserved),
    )


def _pair(text: str) -> Pair:
    cohort, split = text.split(" ")
    return int(cohort), split


def _digest(connection: sqlite3.Connection, cohort: int) -> str:
    return str(connection.execute("select digest from cohorts where number = ?", (cohort,)).fetchone()[0])
