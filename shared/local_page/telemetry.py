"""Numbers for Prometheus, in its text format.

Promises
- Numbers are read off what is there when they are asked for: nothing is counted in memory, so a restart loses nothing,
  and a registry of our own shows nothing about the process that we did not put there.
- A label is a name of ours: ``Gauge`` refuses values that could carry an identifier, or break a line.
- A number that is not known is left out: it is never zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NAME = re.compile(r"consilium_[a-z0-9_]+")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}")

Sample = tuple[Mapping[str, str], float | None]
"""Labels, and a number; None where it is not known."""


@dataclass(frozen=True)
class Gauge:
    """One metric: name, meaning, and a number for each set of labels."""

    name: str
    meaning: str
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        """Refuse names and labels that are not of ours."""
        values = [value for labels, _ in self.samples for value in labels.values()]
        if not _NAME.fullmatch(self.name) or not all(_LABEL.fullmatch(value) for value in values):
            raise ValueError("a metric and its labels have names of letters, digits, dots, hyphens and underscores")


def gauge(name: str, meaning: str, value: float | None, **labels: str) -> Gauge:
    """A metric with one number."""
    return Gauge(name, meaning, ((labels, value),))


def exposition(gauges: Iterable[Gauge]) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Held(tuple(gauges)))
    return generate_latest(registry)


@dataclass(frozen=True, eq=False)
class _Held(Collector):
    gauges: tuple[Gauge, ...]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for one in self.gauges:
            known = [(labels, value) for labels, value in one.samples if value is not None]
            if not known:
                continue
            family = GaugeMetricFamily(one.name, one.meaning, labels=list(known[0][0]))
            for labels, value in known:
                family.add_metric(list(labels.values()), value)
            yield family
