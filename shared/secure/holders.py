"""How many sites a sum needs, and who holds shares of whose secrets. The same at every site and at the coordinator.

Promises
- ``threshold``: least number of sites that may be left at any step. With n the active sites of the roster, asked or
  not, it is what the plan says; where it says none, floor(2n / 3) + 1, and no less than ``least``. A rule with
  2 * threshold <= n is refused ("threshold-low"), as is a sum of one site. It is of the roster and not of those that
  offered, because a coordinator chooses whom it asks: of a few it could make one sum, and of a few others another.
- Up to ``complete_up_to`` sites, everybody is everybody's neighbour, and ``threshold`` shares make a secret. Beyond,
  neighbours are drawn (``shared.secure.graph``), and the least degree and local number of shares whose computed
  probability of failure is small enough are used.
- A site is a holder of its own secrets too: its share of them is one that only it can give.

What collusion this tolerates, where c sites obey the coordinator and t is the threshold
- No coalition can put together a secret by itself where t > c; on a graph, where fewer than the local number of any
  honest site's neighbours collude, which is what the bound on failure is about.
- Two sets of survivors of one sum can both find t confirmations only if an honest site confirms both, which none does,
  where 2t > n + c: t signatures for each make 2t, of which colluding sites give at most 2c and honest ones n - c. So
  every honest site reveals the same kind of share of a peer, and the coordinator never holds both secrets of any.
- With t = floor(2n / 3) + 1, both hold for c up to about n / 3: c <= 2t - n - 1. What a site can check by itself is
  c = 0, that is 2t > n; who must be prepared for more asks for a higher threshold, and pays with fewer dropouts, of
  which n - t are tolerated.
- The coordinator chooses whom it asks, and so which n sites offer: of a large federation, it could ask one honest site
  and those that obey it. What stands against that is an absolute number: that of the plan, or ``least``, which is to be
  the plan's quorum. With fewer colluding sites than that, less one, some other honest site is in every sum.
- Whatever is chosen, the sum over honest survivors is known to those who collude: they subtract their own.

Sources: Bonawitz et al., CCS 2017, section 6 (against an active server: 2t > n + c); Bell et al., "Secure
single-server aggregation with (poly)logarithmic overhead", CCS 2020, sections 3 and 4 (graph).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.errors import ProtocolError
from shared.secure.graph import COMPLETE_UP_TO, neighbours

LEAST_SITES = 2
"""A sum of one is no sum."""

Degree = Callable[[int], tuple[int, int]]
"""Number of neighbours and of shares that make a secret, for a number of sites (``graph.degree_for``)."""


@dataclass(frozen=True, slots=True)
class Circle:
    """Who holds what in one sum.

    Attributes:
        threshold: least number of sites at every step.
        needed: shares that make a secret.
        holders: whose shares of a site's secrets there are, by name; share k is the k-th holder's.
    """

    threshold: int
    needed: int
    holders: Mapping[str, tuple[str, ...]]

    def neighbours(self, site: str) -> tuple[str, ...]:
        """With whom ``site`` masks and whose shares it holds beside its own, by name."""
        return tuple(other for other in self.holders[site] if other != site)

    def require_held(self, site: str, present: Sequence[str]) -> None:
        """Return where enough holders of ``site`` are ``present`` to make its secrets; raise "neighbours-few"."""
        there = len(frozenset(present).intersection(self.holders[site]))
        if there < self.needed:
            raise ProtocolError(
                f"{there} of the {len(self.holders[site])} sites that hold shares of {site} are left, {self.needed} "
                "are needed",
                hint="the sum cannot be had; ask the question again when more sites can be reached",
                code="neighbours-few",
            )

    def require_enough(self, present: Sequence[str]) -> None:
        """Return where at least ``threshold`` sites are ``present``; raise ``ProtocolError`` ("below-threshold")."""
        if len(present) < self.threshold:
            raise below_threshold(len(present), self.threshold)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The rule of a plan.

    Attributes:
        sites: ``secure_aggregation.threshold``, or None for two thirds of those that offer.
        degree: of the graph beyond ``complete_up_to`` sites; None for a complete one whatever their number.
        complete_up_to: most sites that all are neighbours.
        least: sites in any sum where the plan gives no number: its quorum.
        colluding: sites that must be borne (c), in 2 t > n + c.
    """

    sites: int | None = None
    degree: Degree | None = None
    complete_up_to: int = COMPLETE_UP_TO
    least: int = LEAST_SITES
    colluding: int = 0

    def of(self, offered: int, enrolled: int = 0) -> int:
        """Least number of sites among ``offered`` of the ``enrolled``; raises "threshold-low", "below-threshold"."""
        everybody = max(offered, enrolled)
        threshold = max(two_thirds(everybody), self.least) if self.sites is None else self.sites
        if threshold < LEAST_SITES or 2 * threshold <= everybody + self.colluding:
            colluding = f", of which {self.colluding} may collude" if self.colluding else ""
            raise ProtocolError(
                f"a threshold of {threshold} is too low for {everybody} sites{colluding}: two separate groups of them "
                "could each reveal half of what hides a single site's values",
                hint="set secure_aggregation.threshold above half of the sites and of those that may collude together, "
                "and to 2 at least",
                code="threshold-low",
            )
        if offered < threshold:
            raise below_threshold(offered, threshold)
        return threshold

    def circle(self, names: Sequence[str], seed: bytes, enrolled: int = 0) -> Circle:
        """Who holds what among ``names``; ``seed`` draws the graph (``statements.graph_seed``). Raises as ``of``."""
        threshold = self.of(len(names), enrolled)
        degree, needed = self._spread(len(names), threshold)
        beside = neighbours(names, degree, seed)
        return Circle(threshold, needed, {name: tuple(sorted((name, *beside[name]))) for name in sorted(names)})

    def _spread(self, sites: int, threshold: int) -> tuple[int, int]:
        if self.degree is None or sites <= self.complete_up_to:
            return sites - 1, threshold
        degree, needed = self.degree(sites)
        return (degree, needed) if degree < sites - 1 else (sites - 1, threshold)


def two_thirds(offered: int) -> int:
    """The least number of sites above two thirds of those that ``offered``."""
    return 2 * offered // 3 + 1


def below_threshold(present: int, threshold: int) -> ProtocolError:
    """What is raised wherever too few sites are left."""
    return ProtocolError(
        f"{present} sites are left in this sum, the threshold is {threshold}",
        hint="nothing was revealed; ask the question again when more sites can be reached",
        code="below-threshold",
    )
