"""Clocks that are an hour wrong, certificates that are over or another's: a sentence says so, and nobody is let in."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from deciding_hospital import plan_of
from real_federation import COORDINATOR, RealFederation, invariants, kept, real_federation, until
from real_sites import NAMES, now
from wrong_clock import variables

from server.federation_folder import CHAIN_PEM, FederationFolder, settings_for
from server.validity import days_left

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

VICTIM, OTHERS = NAMES[0], NAMES[1:]
PLAN = plan_of(participation={"quorum": 2, "deadline_s": 60.0, "admission_s": 60.0})
CERTIFICATE = "the coordinator's certificate is not the one that was pinned, or has expired"


@pytest.mark.parametrize("hours", [1, -1])
def test_a_site_whose_clock_is_an_hour_wrong_is_told_so_and_the_others_are_let_in(tmp_path: Path, hours: int) -> None:
    """Before: one clock is wrong. After: the other site is in, and this one was told why, and joins when right."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        before = kept(federation)
        federation.variables[VICTIM] = variables(tmp_path, 3600 * hours)
        federation.start(COORDINATOR, VICTIM, OTHERS[0])
        federation.ready(OTHERS[0])
        turned_away = "the coordinator does not let this site in: not enrolled, suspended, or a clock"
        until(lambda: turned_away in federation.said(VICTIM), 400, "the site is told")
        log = (federation.root / VICTIM / "log" / "supernode.log").read_text()
        (behind, *_) = re.findall(r"the site's clock is (-?\d+) s behind; from -5 to 300 s are allowed", log)
        assert abs(int(behind) + 3600 * hours) < 60
        assert federation.online() == {OTHERS[0]}
        del federation.variables[VICTIM]
        federation.stop(VICTIM)
        federation.start(VICTIM)
        federation.ready(VICTIM)
        invariants(federation, before)


def test_a_coordinator_whose_clock_is_an_hour_wrong_lets_nobody_in_and_is_told_by_its_sites(tmp_path: Path) -> None:
    """Before: the coordinator's clock is wrong. After: no site was let in, and the run says that nobody is there."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        before = kept(federation)
        federation.variables[COORDINATOR] = variables(tmp_path, 3600)
        federation.start()
        until(lambda: all("or a clock" in federation.said(name) for name in NAMES), 400, "the sites are told")
        said = federation.fails(federation.order())
        assert "none of 3 enrolled sites has ever connected" in said
        invariants(federation, before)


def test_an_expired_certificate_is_named_by_the_sites_and_renewing_it_is_enough(tmp_path: Path) -> None:
    """Before: the server's certificate ended years ago. After: every site said so, and came by itself after renew."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        before = kept(federation)
        expire(federation)
        assert days_left(federation.joined.federation, now()).server < 0
        federation.start()
        until(lambda: all(CERTIFICATE in federation.said(name) for name in NAMES), 400, "the sites say so")
        assert "the server certificate ended" in federation.said(COORDINATOR)
        assert "consilium-server renew" in federation.said(COORDINATOR)
        federation.server("renew")
        federation.stop(COORDINATOR)
        federation.start(COORDINATOR)
        federation.ready()
        invariants(federation, before)


def test_a_server_with_another_authority_s_certificate_is_not_trusted_by_anybody(tmp_path: Path) -> None:
    """Before: certificate and key are another federation's of the same host. After: no site has spoken to it."""
    with real_federation(tmp_path / "f", PLAN) as federation:
        before, address = kept(federation), federation.joined.federation.settings.address
        other = FederationFolder.init(tmp_path / "other", settings_for("squares-of-europe", address), None, now())
        for name in (CHAIN_PEM, "tls/server.key", "tls/server.pem"):
            (federation.coordinator / name).write_bytes(other.read(name))
        federation.start()
        until(lambda: all(CERTIFICATE in federation.said(name) for name in NAMES), 400, "the sites say so")
        assert not federation.online()
        invariants(federation, before)


def expire(federation: RealFederation) -> None:
    """Issue the server's certificate as it was issued ten years ago."""
    federation.joined.federation.renew(lambda: b"", now() - timedelta(days=3650))
