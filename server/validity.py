"""How long the coordinator's certificates still last, in days, and what to say about it from 30 days on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from server.federation_folder import CA_PEM, SERVER_PEM, FederationFolder
from shared.crypto.certificates import from_pem

FEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class DaysLeft:
    """Whole days that the server's certificate and the authority still last; negative once they are over."""

    server: int
    authority: int

    def warnings(self) -> tuple[str, ...]:
        """A sentence for each that ends within ``FEW_DAYS``, the more urgent first."""
        said = []
        if self.server < FEW_DAYS:
            said.append(f"{_ends('the server certificate', self.server)}: consilium-server renew")
        if self.authority < FEW_DAYS:
            said.append(f"{_ends('the authority of this federation', self.authority)}: make a new federation in time")
        return tuple(said)


def days_left(folder: FederationFolder, now: datetime) -> DaysLeft:
    """How long the certificates in ``folder`` last; raises ``ConsiliumError`` where one cannot be read."""
    days = [from_pem(folder.read(name))[0].remaining(now) // timedelta(days=1) for name in (SERVER_PEM, CA_PEM)]
    return DaysLeft(*days)


def _ends(what: str, days: int) -> str:
    count = f"{abs(days)} day" + "s" * (abs(days) != 1)
    return f"{what} ended {count} ago" if days < 0 else f"{what} ends in {count}"
