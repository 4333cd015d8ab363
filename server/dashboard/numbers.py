"""The federation in numbers, for Prometheus, and in one word, for whoever asks ``/health``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from server.dashboard.look import Look, RunLook
from server.dashboard.sentences import PHASES, failures, silent
from server.dashboard.spending import spent
from shared.local_page.telemetry import Gauge, gauge

PHASE_WORDS = tuple(phase.replace(" ", "-") for phase in PHASES)


def gauges(look: Look) -> list[Gauge]:
    """Every metric of the coordinator."""
    active = [site for site in look.sites if site.state == "active"]
    connected = sum(site.link == "connected" for site in active) if look.gateway else None
    certificates = tuple(({"certificate": one.name.replace(" ", "-")}, float(one.days)) for one in look.certificates)
    links = tuple(({"site": one.name}, float(one.link == "connected")) for one in active) if look.gateway else ()
    return [
        gauge("consilium_gateway_up", "1 where the gateway answers.", float(look.gateway)),
        gauge("consilium_sites_active", "Sites of the roster that take part.", len(active)),
        gauge("consilium_sites_connected", "Active sites that are connected.", connected),
        Gauge("consilium_site_connected", "1 where an active site is connected.", links),
        Gauge("consilium_certificate_days", "Whole days until a certificate ends.", certificates),
        gauge("consilium_disk_free_bytes", "Free on the disk of the federation folder.", look.disk_free),
        *(_run(look.run, look.now.timestamp()) if look.run else ()),
    ]


def state_of(look: Look) -> str:
    """The first thing that keeps the federation from working; "ok" where nothing does."""
    if not look.gateway:
        return "no-gateway"
    if look.faults:
        return "damaged"
    if any(one.days < 0 for one in look.certificates):
        return "certificate"
    if look.run and silent(look.run, look.now.timestamp()):
        return "run-silent"
    return "ok"


def _run(run: RunLook, now: float) -> Iterator[Gauge]:
    live = run.live
    if live is None:
        return
    phase = live.phase.replace(" ", "-")
    yield gauge("consilium_run_active", "1 while the newest run goes on.", float(run.going))
    yield gauge("consilium_run_round", "Round in work.", live.round)
    yield gauge("consilium_run_rounds", "Rounds of the plan.", live.rounds)
    yield Gauge(
        "consilium_run_phase",
        "1 for the phase that the run is in.",
        tuple(({"phase": one}, float(one == phase)) for one in PHASE_WORDS),
    )
    yield gauge("consilium_run_silent_seconds", "Since the run said something last.", live.age_s(now))
    yield gauge("consilium_run_loss", "Training loss of the last round.", live.loss)
    yield Gauge("consilium_run_failures", "Failed answers, by code.", _failures(run))
    shares = tuple(({"site": one.site}, one.share) for one in spent(run))
    yield Gauge("consilium_epsilon_spent_ratio", "Most that a patient has paid, as a share of the plan's.", shares)


def _failures(run: RunLook) -> tuple[tuple[dict[str, str], float], ...]:
    times: Counter[str] = Counter()
    for one in failures(run):
        times[one.code] += one.times
    return tuple(({"code": code}, float(number)) for code, number in sorted(times.items()))
