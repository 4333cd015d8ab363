"""What was done to patients, without what it costs.

Promises
- An ``Event`` is a value: some steps of one mechanism with its parameters. Ledgers store events and never epsilons, so
  that a better accountant can be asked again about an old cohort (after dp_accounting's ``dp_event``).
- Where sites share the noise, an event says both: what hides a patient from a coordinator with whom no more sites work
  than the plan assumes, and what does where all of them do.
- Neighbouring data sets differ by one patient with all their images, added or removed. The noise of an event is
  relative to the most that one patient can move its sum, so the event says all that accounting needs.

What events cost is ``shared.privacy.accounting``'s; which events a plan makes is ``shared.privacy.terms``'s.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """``steps`` releases of a Poisson-sampled Gaussian mechanism.

    Attributes:
        noise_multiplier: standard deviation of the noise over the sensitivity (sigma); above 0.
        sampling_rate: probability with which each patient takes part in a step, in (0, 1]; 1 for statistics.
        steps: number of releases, at least 1.
        alone: the noise multiplier for whoever knows what all other sites have added, where sites share the noise
            (``shared.privacy.shared_noise``); 0 where all of it is this site's own, which nobody else knows.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    alone: float = 0.0

    def if_alone(self) -> Event:
        """What it is for whoever knows what all other sites have added."""
        return Event(self.alone or self.noise_multiplier, self.sampling_rate, self.steps)
