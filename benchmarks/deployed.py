"""A federation of real processes on this machine: the coordinator's own time, and a large model beside Flower's FedAvg.

Not run by default, because it takes minutes: ``python benchmarks/run.py --only deployed``.

Promises
- Own time is a round's time without the sites' work: everything that the coordinator, the gateway, TLS, Flower's
  processes and the relays cost. Sites here train nothing, so it is nearly the whole round.
- The large model goes over the same gateway for both: ours as float32 weights down and integers of the plan's width up,
  FedAvg's as float32 both ways. FedAvg signs, checks and writes nothing.
- Each figure says how busy the machine was. A reply that never came is counted, and makes a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from bench import FULL, Bench
from deployed_seen import grown
from processes import ArmError, Ran, ours, run_arm
from rows import Row, Target

OWN_S = 5.0
FLAT = 1.05
"""A last round that needs a twentieth more than the second one is the allocator's; a leak of one update is more."""
_LONGEST_S = 1800.0
_FLOAT32 = 4


@dataclass(frozen=True)
class Deployed:
    """What is run: ``channels`` of the network, which has ``parameters``."""

    sites: int
    rounds: int
    channels: tuple[int, ...]
    parameters: int

    def __str__(self) -> str:
        return f"{self.parameters / 1e6:.0f} M parameters, {self.sites} sites"


TINY = Deployed(3, 6, (4, 8), 3_000)
LARGE = Deployed(8, 3, (64, 128, 256, 512, 1176), 30_120_000)
_ARMS = {"ours": "deployed_arm.consilium", "Flower's FedAvg": "deployed_arm.fedavg"}


def deployed(bench: Bench) -> Iterator[Row]:
    """Rows of the tiny federation and, at full scale, of the large model on both sides."""
    yield from own_times(_run(bench, "ours", TINY).said)
    if bench.scale == FULL:
        for name in _ARMS:
            try:
                yield from large(name, _run(bench, name, LARGE).said)
            except ArmError as error:
                yield Row(f"{LARGE}: {name}", "", "", (), reason=str(error))


def own_times(said: dict[str, object]) -> Iterator[Row]:
    """Of rounds that only train, and of the one that is also measured."""
    own: Sequence[float] = said["own"]  # type: ignore[assignment]
    against, target = _load(said), Target("at most", OWN_S)
    yield Row("own time of a round, tiny model, 3 sites", against, "s", tuple(own[:-1]), target=target)
    yield Row("own time of a round that is measured, too", against, "s", (own[-1],), target=target)


def large(name: str, said: dict[str, object], size: Deployed = LARGE) -> Iterator[Row]:
    """Time, bytes and memory of one side."""
    what, against = f"{size}: {name}: ", _load(said)
    seconds: Sequence[float] = said["seconds"]  # type: ignore[assignment]
    peaks: dict[str, Sequence[float]] = said["peaks"]  # type: ignore[assignment]
    weights = _FLOAT32 * size.parameters
    target = Target("at most", FLAT) if name == "ours" else None
    yield Row(f"{what}seconds a round", against, "s", tuple(seconds))
    for direction in ("down", "up"):
        bytes_: float = said[direction]  # type: ignore[assignment]
        yield Row(f"{what}bytes {direction} a site and round", "its weights as float32", "x", (bytes_ / weights,))
    for process in ("serverapp", "gateway"):
        yield Row(f"{what}memory of the {process}, by round", against, "MiB", tuple(peaks[process]))
    yield Row(f"{what}memory of the last round", "the second round", "x", (grown(peaks["serverapp"]),), target=target)
    lost: int = said["lost"]  # type: ignore[assignment]
    yield Row(f"{what}replies lost", f"of {size.sites * size.rounds}", "", (float(lost),))


def _load(said: dict[str, object]) -> str:
    before, after = said["load"]  # type: ignore[misc]
    return f"load {before:.1f} before, {after:.1f} after"


def _run(bench: Bench, name: str, size: Deployed) -> Ran:
    arguments = {
        "folder": bench.stores,
        "sites": size.sites,
        "rounds": size.rounds,
        "channels": size.channels,
    }
    return partial(run_arm, _ARMS[name], ours(bench.environment), arguments, _LONGEST_S)()
