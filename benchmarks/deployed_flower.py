"""The same exchange with Flower's own FedAvg: named by a bundle, found on the PYTHONPATH, over the same gateway.

A round is FedAvg's: float32 arrays of the model's shapes to every site, as many back, their mean. A site adds a number
of its own to what it received. Nothing is evaluated, nothing is signed, nothing is written but a line for each round.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

SHAPES, ROUNDS = "shapes.json", "rounds.jsonl"
_POLL_S = 0.1


class Counting(FedAvg):
    """FedAvg that knows how many replies of the last round it has averaged."""

    replies = 0

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As FedAvg does."""
        kept = list(replies)
        self.replies = sum(message.has_content() for message in kept)
        return super().aggregate_train(server_round, kept)


server = ServerApp()
client = ClientApp()


@server.main()
def lead(grid: Grid, context: Context) -> None:
    """FedAvg over ``SITES-ROUNDS``, which is the name of the run."""
    folder = Path(str(context.run_config["federation"]))
    sites, rounds = (int(part) for part in str(context.run_config["run"]).split("-"))
    while len(list(grid.get_node_ids())) < sites:
        time.sleep(_POLL_S)
    began = [time.perf_counter()]

    strategy = Counting(
        fraction_train=1.0,
        fraction_evaluate=0.0,
        min_train_nodes=sites,
        min_evaluate_nodes=0,
        min_available_nodes=sites,
    )

    def each(number: int, _arrays: ArrayRecord) -> MetricRecord:
        now = time.perf_counter()
        with (folder / ROUNDS).open("a") as file:
            file.write(json.dumps({"round": number, "seconds": now - began[0], "replies": strategy.replies}) + "\n")
        began[0] = now
        return MetricRecord({"round": number})

    shapes = json.loads((folder / SHAPES).read_text())
    initial = ArrayRecord([np.zeros(shape, np.float32) for shape in shapes])
    strategy.start(grid, initial, num_rounds=rounds, evaluate_fn=each)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Each site's own arrays: equal ones would travel once for all."""
    number = (context.node_id % 1000) / 1000
    rng = np.random.default_rng(context.node_id)
    arrays = ArrayRecord(
        [
            array + rng.random(array.shape, np.float32) + number
            for array in message.content["arrays"].to_numpy_ndarrays()
        ]
    )
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
