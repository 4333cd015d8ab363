"""Which node is which site's: what the gateway registered, by the names and keys of the roster.

Promises
- A node counts where its key is the one that the roster gives for its site: a name alone is nobody's proof.
"""

from __future__ import annotations

from pathlib import Path

from server.federation_folder import FederationFolder
from server.link.control import Control
from server.link.places import LinkFolder


def registered(root: Path) -> dict[str, int]:
    """Number of the node of each active site of the federation in ``root`` that was ever let in."""
    active = {one.site: one.node.strip() for one in FederationFolder.open(root).roster().sites if one.state == "active"}
    with Control.of(LinkFolder(root)) as control:
        return {
            node.site: node.number
            for node in control.nodes()
            if active.get(node.site) == node.public_pem.strip() and node.state != "unregistered"
        }
