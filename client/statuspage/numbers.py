"""The site in numbers, for Prometheus, and in one word for ``/health``: nothing names this hospital or a data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.local_page.telemetry import Gauge, gauge

Status = Mapping[str, Any]


def gauges(status: Status) -> list[Gauge]:
    """Every metric of a site; data sets are numbered in the order of the ledger."""
    custodian, left = status["custodian"], status["left"] or {}
    shares = tuple(
        ({"budget": str(place), "split": one["split"]}, one["reserved"] / one["cap"])
        for place, one in enumerate(status["budgets"], start=1)
    )
    days = tuple(({"certificate": one["name"]}, float(one["days"])) for one in status["certificates"])
    return [
        gauge("consilium_custodian_up", "1 where the custodian answers.", _is(custodian, "up", "busy")),
        gauge("consilium_custodian_busy_seconds", "How long the present job has taken.", custodian.get("busy_s")),
        gauge("consilium_custodian_waiting", "Requests that wait.", custodian.get("waiting")),
        gauge("consilium_custodian_answered", "Requests answered since it started.", custodian.get("answered")),
        gauge("consilium_supernode_up", "1 where the SuperNode runs.", _is(status["supernode"], "up")),
        gauge("consilium_link_up", "1 where a session with the coordinator is open.", _is(status["link"], "up")),
        gauge("consilium_approvals", "Plans whose approval holds.", _approved(status)),
        Gauge("consilium_epsilon_spent_ratio", "Spent or reserved, as a share of the policy's cap.", shares),
        Gauge("consilium_certificate_days", "Whole days until a certificate ends.", days),
        gauge("consilium_disk_free_bytes", "Free on the disk of the site folder.", status["disk"]["free"]),
        gauge("consilium_left_messages_week", "Messages that left in seven days.", left.get("messages")),
        gauge("consilium_left_bytes_week", "Bytes that left in seven days.", left.get("bytes")),
        gauge("consilium_refused_week", "Requests refused in seven days.", left.get("refused")),
    ]


def state_of(status: Status) -> str:
    """The first thing that keeps this site from taking part; "ok" where nothing does."""
    if status["federation"] is None:
        return "not-enrolled"
    for part in ("custodian", "supernode", "link"):
        if status[part]["state"] == "down":
            return f"{part}-down"
    return "damaged" if status["faults"] else "ok"


def _is(part: Status, *states: str) -> float | None:
    return None if part["state"] == "unknown" else float(part["state"] in states)


def _approved(status: Status) -> float:
    return float(sum(one["state"] == "approved" for one in status["approvals"]))
