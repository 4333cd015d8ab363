"""The text for the people who run the firewall: to be pasted into a ticket, readable without knowing Consilium."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.machine.network import SECONDS, certificate_of
from client.machine.route import Endpoint, Proxy, endpoint, proxy_for
from shared.crypto.certificates import Certificate


def ticket(coordinator: str, ca_file: Path | None, environ: Mapping[str, str], seconds: float = SECONDS) -> str:
    """The text for this site's coordinator; its certificate is described where it can be reached and verifies.

    Raises:
        ConsiliumError: the address or ``HTTPS_PROXY`` cannot be understood.
    """
    target = endpoint(coordinator)
    certificate = certificate_of(coordinator, ca_file, environ, seconds)
    return describe(target, proxy_for(target, environ), certificate)


def describe(target: Endpoint, proxy: Proxy | None, certificate: Certificate | None) -> str:
    """The text, from what it is about."""
    rows = [
        ("Direction", "outbound only; no port is opened at the hospital, nothing connects to us"),
        ("To", f"{target.host}, TCP port {target.port}"),
        ("Protocol", "HTTPS (TLS 1.2 or 1.3); no other port, no UDP"),
        ("Proxy", _way(proxy)),
        ("Inspection", "please exempt this host: a certificate of anybody else ends the connection"),
        ("Duration", "a request every few seconds, for hours or days; please do not cut long-lived connections"),
        ("Volume", "model weights in pieces of 5 MiB, up to some hundred MiB a round in either direction; no images"),
        ("Name", f"{(proxy.endpoint if proxy else target).host} must resolve from this machine"),
        *_certificate(certificate),
    ]
    title = "Request: outbound HTTPS for federated learning (Consilium)"
    return "\n".join([title, "", *(f"{term + ':':<13} {text}" for term, text in rows), ""])


def _way(proxy: Proxy | None) -> str:
    if proxy is None:
        return "none is used; if one is required, please tell us its host and port (HTTP CONNECT)"
    return f"through {proxy.endpoint}, which must allow CONNECT to this host and port"


def _certificate(certificate: Certificate | None) -> list[tuple[str, str]]:
    if certificate is None:
        return [("Certificate", "could not be read from here yet; the coordinator tells its fingerprint")]
    return [
        ("Certificate", f"{certificate.subject}, issued by {certificate.issuer}"),
        ("Valid until", f"{certificate.not_after:%Y-%m-%d}"),
        ("SHA-256", certificate.fingerprint()),
    ]
