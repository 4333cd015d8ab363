"""The simulator against a loop that does nothing but train.

All arms open the same stores, draw the same batches and end with the same model, to the rounding of fixed point: each
reports its last round's loss, and ``run`` compares them. The first optimizer of a process makes torch import its
compiler (1 to 2 s); that happens before the loop is timed, and within the whole process.

==============  ===============================================================  ====================================
arm             training loop (``loop_s``)                                       whole process, beyond the loop
==============  ===============================================================  ====================================
``bare``        for each round and site: load weights, train; mean in numpy      imports, network, opening the stores
``in_process``  first request to train, to the last round's last line on disk:   as ``bare``; admission, measuring on
                requests, checks, training, fixed point, exact sums,             validation patients once and on test
                checkpoints, journal, rounds.jsonl                               patients once, the final model
==============  ===============================================================  ====================================
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import family
import federation
import numpy as np

from client.training import local
from client.training.batches import TrainingData
from client.workbench import Workbench
from server.coordinator import Coordinator
from server.fleet import Fleet
from server.journal import Journal
from server.results import RoundRecord
from server.run_setup import Setup, Watch
from server.run_state import CHECKPOINTS, SERVER_STATE, ModelFiles
from shared.arrays import read_vector
from shared.messages import Evaluate, Hello, Reply, Request, Train
from shared.plan import Plan
from shared.seeds import generator
from simulations.engine import LocalFleet
from simulations.workers import Pool, Sites

Result = dict[str, float]


@dataclass(frozen=True)
class Instant:
    """A moment, by the wall and by this process's CPU time, in seconds."""

    wall_s: float
    cpu_s: float

    @classmethod
    def now(cls) -> Instant:
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Instant) -> Instant:
        return Instant(self.wall_s - other.wall_s, self.cpu_s - other.cpu_s)


def bare(stores: str, sites: int, rounds: int, changes: Sequence[str] = ()) -> Result:
    """The same local training in a loop: no journal, no checkpoint, no check, no fixed point, no evaluation."""
    plan = federation.plan(rounds, changes)
    bench = _warm(Workbench.for_plan(plan))
    data = {spec.name: federation.data(plan, spec) for spec in federation.specs(stores, sites)}
    weights, loss = bench.initial_weights(), 0.0
    began = Instant.now()
    for number in range(1, rounds + 1):
        total, loss = np.zeros(weights.size), 0.0
        for name, found in data.items():
            trained = local.train(
                bench.load(weights),
                TrainingData(found.train, found.train_patients),
                bench.task,
                plan,
                local.round_assignment(plan, number),
                rng=generator(plan.plan.seed, "train", name, number),
                device=bench.device,
            )
            total += read_vector(bench.model)
            loss += trained.loss_sum / trained.steps / sites
        weights = (total / sites).astype(np.float32)
    return result(Instant.now() - began, loss)


def in_process(stores: str, sites: int, rounds: int, workers: int = 1, changes: Sequence[str] = ()) -> Result:
    """The simulator's own engine."""
    plan = federation.plan(rounds, changes)
    with setting(plan, workers, stores) as (setup, pool):
        fleet, log = Timed(LocalFleet(pool, federation.specs(stores, sites))), Log()
        Coordinator(setup, fleet, log.watch()).run()
        used = family.usage()
    ended, loss = log.rounds[-1]
    admission, training, (validation, test) = (fleet.spent[kind] for kind in (Hello, Train, Evaluate))
    loop = ended - training[0].began - (validation.ended - validation.began)
    return result(loop, loss) | {
        "coordinator_s": loop.wall_s - sum(span.waited_s for span in training),
        "admission_s": (admission[0].ended - admission[0].began).wall_s,
        "test_s": (test.ended - test.began).wall_s,
        **used,
    }


@dataclass(frozen=True)
class Span:
    """From a question to the last answer, and how much of it was waiting for sites."""

    began: Instant
    ended: Instant
    waited_s: float


class Timed:
    """A fleet that notes when each question was asked and answered, by the kind of question."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.spent: defaultdict[type[Request], list[Span]] = defaultdict(list)

    def names(self) -> tuple[str, ...]:
        return self._fleet.names()

    def ask(self, requests: Mapping[str, Request], deadline_s: float) -> Iterator[tuple[str, Reply]]:
        began, waited_s = Instant.now(), 0.0
        asked = time.perf_counter()
        for answer in self._fleet.ask(requests, deadline_s):
            waited_s += time.perf_counter() - asked
            yield answer
            asked = time.perf_counter()
        self.spent[type(next(iter(requests.values())))].append(Span(began, Instant.now(), waited_s))


@dataclass
class Log:
    """When each round ended, and its training loss."""

    rounds: list[tuple[Instant, float]] = field(default_factory=list)

    def watch(self) -> Watch:
        return Watch(round=self._note)

    def _note(self, record: RoundRecord) -> None:
        self.rounds.append((Instant.now(), record.loss if record.loss is not None else float("nan")))


@contextmanager
def setting(plan: Plan, workers: int, beside: str) -> Iterator[tuple[Setup, Pool]]:
    """What ``simulations.run`` sets up for a run, in a folder that goes away, on the disk that the stores are on."""
    with tempfile.TemporaryDirectory(dir=beside) as name:
        folder = Path(name)
        for part in (CHECKPOINTS, SERVER_STATE):
            (folder / part).mkdir()
        with (
            Pool(Sites(plan, folder), workers) as pool,
            Journal.open_or_create(folder / "journal.sqlite", plan, time.time) as journal,
        ):
            bench = _warm(Workbench.for_plan(plan))
            files = ModelFiles(folder, bench.parameters, plan.digest())
            yield Setup(plan, bench.task, files, journal, bench.initial_weights()), pool


def _warm(bench: Workbench) -> Workbench:
    local.make_optimizer(bench.model, bench.plan.training)
    return bench


def result(taken: Instant, loss: float) -> Result:
    """What every training arm says."""
    return {"loop_s": taken.wall_s, "loop_cpu_s": taken.cpu_s, "loss": loss}
