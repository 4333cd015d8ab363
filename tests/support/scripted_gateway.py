"""A gateway whose runs do what a test has written down: one move each time somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType

from server.link.control import FlowerRun, Node
from shared.errors import RunError

Move = Callable[[], tuple[str, str]]
"""What happens until the next look; gives Flower's (state, outcome) then."""


@dataclass
class ScriptedGateway:
    """Stands where ``server.link.control.Control`` stands.

    Attributes:
        attempts: the moves of each process that is started, in order.
        started: the configurations that runs were started with.
        stopped: numbers of the runs that were stopped.
    """

    attempts: list[list[Move]] = field(default_factory=list)
    started: list[Mapping[str, str]] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    known: dict[int, FlowerRun] = field(default_factory=dict)
    registered: tuple[Node, ...] = ()
    printed: dict[int, tuple[str, ...]] = field(default_factory=dict)

    def of(self, _folder: object) -> ScriptedGateway:
        return self

    def __enter__(self) -> ScriptedGateway:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        return

    def start_run(self, config: Mapping[str, str]) -> int:
        self.started.append(config)
        return self.knows(config["run"], "pending")

    def knows(self, run: str, state: str, outcome: str = "") -> int:
        number = 100 + len(self.known)
        self.known[number] = FlowerRun(number, state, outcome, "", {"run": run})
        return number

    def runs(self) -> tuple[FlowerRun, ...]:
        return tuple(self.known[number] for number in sorted(self.known, reverse=True))

    def run(self, number: int) -> FlowerRun:
        if number not in self.known:
            raise RunError(f"Flower knows no run {number}", code="no-run")
        state, outcome = self.attempts[number - 100].pop(0)()
        self.known[number] = replace(self.known[number], state=state, outcome=outcome)
        return self.known[number]

    def stop_run(self, number: int) -> bool:
        self.stopped.append(number)
        return True

    def log(self, number: int) -> Iterator[tuple[str, float]]:
        for place, text in enumerate(self.printed[number]):
            yield text, float(place)

    def nodes(self) -> tuple[Node, ...]:
        return self.registered


def away() -> tuple[str, str]:
    """The gateway is being started again."""
    raise RunError("the gateway of this federation does not answer", code="no-gateway")


def over(outcome: str) -> Move:
    """The process has ended like this."""
    return lambda: ("finished", outcome)
