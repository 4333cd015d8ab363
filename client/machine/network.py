"""Whether this machine reaches its coordinator, and nobody else instead of it.

Promises
- What is checked is what federating will do: the same proxy, the same authority, TLS 1.2 or later.
- A failure is told once: whatever depends on it is skipped and says on what.
- Inspection of TLS is told apart from a mistake where ``ca_file`` pins the coordinator's authority. Where the machine's
  own list of authorities is trusted, an inspecting proxy may be on it, and the check says that it cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from client.machine import tls
from client.machine.check import Check
from client.machine.route import Endpoint, Proxy, addresses, connect, endpoint, proxy_for
from client.machine.tls import Sight
from shared.crypto.certificates import Certificate, from_pem
from shared.errors import ConsiliumError

SECONDS = 10.0
"""How long a name server, a proxy or the coordinator may take for one answer."""
FEW_DAYS = 30
WRONG_CLOCK, FAR_OFF_CLOCK = timedelta(seconds=30), timedelta(minutes=5)
"""Dates of HTTP are whole seconds; beyond five minutes, signatures and certificates begin to fail."""

_AFTER_CONNECTING = ("tls", "certificate", "interception", "clock")
_INSPECTION = "ask IT to exempt this host from TLS inspection; accept no other ca_file from the network itself"


def checks(
    coordinator: str | None, ca_file: Path | None, environ: Mapping[str, str], now: datetime, seconds: float = SECONDS
) -> tuple[Check, ...]:
    """All checks of the network; ``seconds`` is the deadline of each single answer."""
    if not coordinator:
        reason = "no coordinator is set: [coordinator] address in site.toml"
        return _skipped(("proxy", "name", "connection", *_AFTER_CONNECTING), reason)
    try:
        target = endpoint(coordinator)
        proxy = proxy_for(target, environ)
    except ConsiliumError as error:
        failed = Check("proxy", "error", error.sentence, error.hint)
        return (failed, *_skipped(("name", "connection", *_AFTER_CONNECTING), "the way to the coordinator is unclear"))
    return (_proxy(target, proxy, environ), *_way(target, proxy, ca_file, now, seconds))


def _way(
    target: Endpoint, proxy: Proxy | None, ca_file: Path | None, now: datetime, seconds: float
) -> tuple[Check, ...]:
    first = proxy.endpoint if proxy else target
    try:
        count = len({sockaddr[0] for _, sockaddr in addresses(first, seconds)})
    except ConsiliumError as error:
        failed = Check("name", "error", error.sentence, error.hint)
        return (failed, *_skipped(("connection", *_AFTER_CONNECTING), f"the name {first.host} is not known"))
    name = Check("name", "ok", f"{first.host} resolves to {count} address" + "es" * (count != 1))
    try:
        connect(target, proxy, seconds).close()
    except ConsiliumError as error:
        failed = Check("connection", "error", error.sentence, error.hint)
        return (name, failed, *_skipped(_AFTER_CONNECTING, f"there is no connection to {target}"))
    way = f"through the proxy {proxy.endpoint}" if proxy else "directly"
    return (
        name,
        Check("connection", "ok", f"{target} is reached {way}"),
        *_secured(target, proxy, ca_file, now, seconds),
    )


def _secured(
    target: Endpoint, proxy: Proxy | None, ca_file: Path | None, now: datetime, seconds: float
) -> tuple[Check, ...]:
    try:
        context = tls.trust(ca_file)
        pinned = tuple(one.subject for one in from_pem(ca_file.read_bytes())) if ca_file else ()
        sight = tls.look(target, lambda: connect(target, proxy, seconds), context, seconds)
    except ConsiliumError as error:
        failed = Check("tls", "error", error.sentence, error.hint)
        return (failed, *_skipped(_AFTER_CONNECTING[1:], "TLS could not be tried"))
    return (
        secure(target, sight, now),
        validity(sight.certificate, now),
        interception(sight, pinned),
        clock(sight, now),
    )


def certificate_of(
    coordinator: str, ca_file: Path | None, environ: Mapping[str, str], seconds: float = SECONDS
) -> Certificate | None:
    """The coordinator's certificate where it verifies, else None."""
    try:
        target = endpoint(coordinator)
        proxy = proxy_for(target, environ)
        sight = tls.look(target, lambda: connect(target, proxy, seconds), tls.trust(ca_file), seconds)
    except ConsiliumError:
        return None
    return None if sight.failure else sight.certificate


def secure(target: Endpoint, sight: Sight, now: datetime) -> Check:
    """Whether TLS verifies: chain, host name, dates, version."""
    if not sight.failure:
        return Check("tls", "ok", f"{sight.version}; chain, host name and dates of the certificate are in order")
    return Check("tls", "error", *_explained(target, sight, now))


def _explained(target: Endpoint, sight: Sight, now: datetime) -> tuple[str, str]:
    certificate = sight.certificate
    issuer = certificate.issuer if certificate else "somebody unknown"
    names = ", ".join(certificate.names[:4]) if certificate and certificate.names else "no host at all"
    look_at_clock = f"this machine's clock says {now:%Y-%m-%d %H:%M %Z}; if that is right, tell the coordinator"
    answers = {
        "expired": ("the certificate has expired", look_at_clock),
        "not-yet-valid": ("the certificate is not valid yet", look_at_clock),
        "wrong-host": (
            f"the certificate is for {names}, not for {target.host}",
            "correct [coordinator] address, or ask the coordinator for a certificate with this name",
        ),
        "unknown-authority": (
            f"the certificate was issued by {issuer}, whom this site does not trust",
            "see the check interception; a coordinator with its own authority gives you its ca_file",
        ),
        "no-tls": (f"{target} and this machine have no TLS in common; 1.2 or later is needed", "check the port"),
        "silent": (f"{target} accepts connections and then says nothing", _INSPECTION),
    }
    return answers.get(sight.failure, ("the certificate cannot be trusted", "send this line to the coordinator"))


def validity(certificate: Certificate | None, now: datetime) -> Check:
    """How long the coordinator's certificate still lasts."""
    if certificate is None:
        return Check("certificate", "skipped", "no certificate was shown")
    days = certificate.remaining(now) // timedelta(days=1)
    ends = f"{certificate.not_after:%Y-%m-%d}"
    if days < 0:
        sentence = f"the coordinator's certificate expired on {ends}, {_days(-days)} ago"
        return Check("certificate", "error", sentence, "tell the coordinator to renew it")
    if days < FEW_DAYS:
        sentence = f"the coordinator's certificate ends on {ends}, in {_days(days)}"
        return Check("certificate", "warning", sentence, "remind the coordinator to renew it")
    return Check("certificate", "ok", f"the coordinator's certificate lasts until {ends}, {_days(days)}")


def interception(sight: Sight, pinned: tuple[str, ...]) -> Check:
    """Whether somebody on the way opens TLS; ``pinned`` are the names of the authorities in ``ca_file``."""
    name = "interception"
    if sight.failure == "unknown-authority" and sight.certificate:
        expected = f"by {', '.join(pinned)}" if pinned else "by an authority that this machine knows"
        sentence = f"the certificate was issued by {sight.certificate.issuer}, not {expected}"
        return Check(name, "error", f"{sentence}: something on the way may be opening TLS", _INSPECTION)
    if sight.failure or sight.certificate is None:
        return Check(name, "skipped", "TLS failed for another reason, see above")
    if not pinned:
        sentence = f"the issuer is {sight.certificate.issuer}, and no ca_file says who it should be"
        return Check(name, "skipped", sentence, "compare it with what the coordinator says, or set ca_file")
    return Check(name, "ok", f"the chain ends at {', '.join(pinned)}: nobody on the way opens TLS")


def clock(sight: Sight, now: datetime) -> Check:
    """This machine's clock against the coordinator's; ``now`` is of the start of the look."""
    if sight.failure:
        return Check("clock", "skipped", "the coordinator's time is taken from verified connections only")
    if sight.date is None:
        return Check("clock", "skipped", "the coordinator did not say what time it is")
    ahead = now + timedelta(seconds=sight.answered_s) - sight.date
    off = abs(ahead)
    way = "ahead of" if ahead > timedelta(0) else "behind"
    sentence = f"this machine's clock is {off.total_seconds():.0f} s {way} the coordinator's"
    if off > WRONG_CLOCK:
        return Check("clock", "error" if off > FAR_OFF_CLOCK else "warning", sentence, "let NTP set it: timedatectl")
    return Check("clock", "ok", sentence)


def _proxy(target: Endpoint, proxy: Proxy | None, environ: Mapping[str, str]) -> Check:
    if proxy:
        login = ", with a user and password" if proxy.authorization else ""
        return Check("proxy", "ok", f"HTTPS_PROXY is set: {proxy.endpoint}{login}")
    if environ.get("https_proxy") or environ.get("HTTPS_PROXY"):
        return Check("proxy", "ok", f"NO_PROXY exempts {target.host}: the direct way is taken")
    return Check("proxy", "skipped", "HTTPS_PROXY is not set: the direct way is taken")


def _days(count: int) -> str:
    return f"{count} day" + "s" * (count != 1)


def _skipped(names: tuple[str, ...], reason: str) -> tuple[Check, ...]:
    return tuple(Check(name, "skipped", reason) for name in names)
