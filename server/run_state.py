"""What a coordinator knows about a run besides its phase, and what it keeps on disk of it.

Promises
- A checkpoint is the global model after a round, parameter by parameter, in a file named by its digest; where the
  server's optimizer has moments, they are in a second file. Both are on disk before the journal says that the round is
  done, so that a run goes on from any line of the journal.
- The final model is the mean of the last ``average_last`` checkpoints, computed in float64 from the files: a resumed
  run gets the bytes that an uninterrupted one gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from server.aggregation.average import RunningMean
from server.aggregation.methods import ServerState
from shared import checkpoint
from shared.arrays import ParameterSchema
from shared.checkpoint import Checkpoint
from shared.errors import RunError
from shared.messages import Vector

CHECKPOINTS = "checkpoints"
SERVER_STATE = "server-state"


@dataclass(frozen=True)
class ModelFiles:
    """Checkpoints of one run.

    Attributes:
        folder: of the run.
        schema: names and shapes of the trained parameters.
        plan_digest: written into every file.
    """

    folder: Path
    schema: ParameterSchema
    plan_digest: str

    def sweep(self) -> None:
        """Remove what a killed process left half written; for the one process that holds the run's journal."""
        for name in (CHECKPOINTS, SERVER_STATE):
            checkpoint.sweep(self.folder / name)

    def save(self, weights: Vector, round_number: int) -> str:
        """Write a global model; returns its digest."""
        said = {"plan": self.plan_digest, "round": str(round_number)}
        return checkpoint.save(self.folder / CHECKPOINTS, self.schema.split(weights), said).digest

    def save_shared(self, weights: Vector, site: str) -> str:
        """Write the fine-tuned model that ``site`` has shared; returns its digest."""
        said = {"plan": self.plan_digest, "site": site}
        return checkpoint.save(self.folder / CHECKPOINTS, self.schema.split(weights), said).digest

    def load(self, digest: str) -> Vector:
        """Read a model back as one flat vector; raises ``RunError`` when it is damaged or another plan's."""
        tensors = self._read(CHECKPOINTS, digest).tensors
        return np.concatenate([np.asarray(tensors[name], np.float32).ravel() for name in self.schema.names])

    def mean(self, digests: Sequence[str]) -> Vector:
        """Mean of some global models, in float64, rounded once."""
        return reduce(RunningMean.add, map(self.load, digests[1:]), RunningMean.of(self.load(digests[0]))).mean()

    def save_server(self, state: ServerState) -> str:
        """Write the server optimizer's moments; returns their digest, or "" where there are none."""
        moments = state.moments()
        if not moments:
            return ""
        said = {"plan": self.plan_digest, "step": str(state.step)}
        return checkpoint.save(self.folder / SERVER_STATE, moments, said).digest

    def load_server(self, weights: Vector, digest: str) -> ServerState:
        """The server optimizer as it was when ``digest`` was written."""
        if not digest:
            return ServerState.start(weights)
        found = self._read(SERVER_STATE, digest)
        return ServerState.restore(weights, found.tensors, int(found.metadata["step"]))

    def _read(self, name: str, digest: str) -> Checkpoint:
        found = checkpoint.load(checkpoint.path_of(self.folder / name, digest))
        plan = found.metadata.get("plan", "")
        if plan != self.plan_digest:
            raise RunError(
                f"checkpoint {digest[:12]} belongs to plan {plan[:12]}, this is plan {self.plan_digest[:12]}",
                hint="keep each run in its own folder",
                code="checkpoint-plan",
            )
        return found
