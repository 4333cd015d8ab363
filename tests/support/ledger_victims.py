"""Processes that pay, and processes that end them: ``python ledger_victims.py kill|race|same|open FOLDER TIMES``.

One process imports everything, and its children are copies of it, so that hundreds can be killed in seconds.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from small_ledger import AT, EVENT, UNLIMITED, added_up, claim, cohort, made, sha

from client.governance.ledger import Ledger
from client.governance.paid import Till
from client.governance.replies import Replies
from shared.errors import BudgetError
from shared.privacy.accounting import Cap

RACERS = 4


def till(folder: Path, cap: Cap) -> Till:
    return Till(Ledger(folder / "ledger.sqlite", added_up), Replies(folder / "replies"), cap, lambda: AT)


def kill(folder: Path, times: int) -> None:
    """Kill one process after the other while it answers round after round; print every answer that got out."""
    made(folder / "ledger.sqlite", cohort("first", train=["a", "b"]))
    chance = random.Random(times)
    number, patience_s = 1, 0.02
    for _ in range(times):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            answer_on(folder, number, writing)
        os.close(writing)
        time.sleep(chance.uniform(0.0, 2 * patience_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        answers = list(lines(reading))
        # About half of them get an answer out, however busy the machine is; the rest die in their first.
        patience_s *= 0.9 if answers else 1.1
        print(*answers, sep="\n", end="\n" if answers else "")
        # The round in flight is asked for again by the next process.
        number = int(answers[-1].split()[0]) + 1 if answers else number
    print(number)


def answer_on(folder: Path, number: int, writing: int) -> None:
    while True:
        answer = till(folder, UNLIMITED).answer_once(claim(number=number), EVENT, lambda: os.urandom(64))
        os.write(writing, f"{number} {sha(answer)}\n".encode())
        number += 1


def race(folder: Path, times: int) -> None:
    """Let processes ask for the last round at once; print how many were granted it, each time."""
    for turn in range(times):
        (here := folder / str(turn)).mkdir()
        made(here / "ledger.sqlite", cohort("first", train=["a", "b"]))
        desk = till(here, Cap(5, 1e-5))

        def ask(racer: int, desk: Till = desk) -> str:
            try:
                return desk.ledger.reserve(claim(number=racer + 1), EVENT, desk.cap, AT).state
            except BudgetError:
                return "refused"

        print(*sorted(at_once(ask)))


def same(folder: Path, times: int) -> None:
    """Let processes ask the same question at once; print their answers, each time."""
    for turn in range(times):
        (here := folder / str(turn)).mkdir()
        made(here / "ledger.sqlite", cohort("first", train=["a", "b"]))
        desk = till(here, Cap(5, 1e-5))
        print(*at_once(lambda _, desk=desk: sha(desk.answer_once(claim(), EVENT, lambda: os.urandom(64)))))


def open_together(folder: Path, times: int) -> None:
    """Let processes open the ledgers that are there at once; print the digests that each of them reads."""
    for turn in range(times):
        path = folder / str(turn) / "ledger.sqlite"
        print(*at_once(lambda _, path=path: Ledger.open(path).digest()))


def at_once(act: Callable[[int], str]) -> list[str]:
    """What processes say that begin together."""
    started, start = os.pipe()
    reading, writing = os.pipe()
    children = []
    for racer in range(RACERS):
        child = os.fork()
        if child == 0:
            os.close(start)
            os.read(started, 1)
            os.write(writing, f"{act(racer)}\n".encode())
            os._exit(0)
        children.append(child)
    os.close(writing)
    # All of them wait for the end of this pipe.
    os.close(start)
    for child in children:
        os.waitpid(child, 0)
    os.close(started)
    return list(lines(reading))


def lines(reading: int) -> Iterator[str]:
    with os.fdopen(reading) as file:
        yield from (line.rstrip("\n") for line in file if line.endswith("\n"))


if __name__ == "__main__":
    {"kill": kill, "race": race, "same": same, "open": open_together}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
