"""The smallest apps that exchange something: named by a test's bundle, found on its PYTHONPATH, never in a bundle."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

server = ServerApp()
client = ClientApp()


@server.main()
def lead(grid: Grid, context: Context) -> None:
    """Ask every node, ``rounds`` times; write what came back, and when, to the federation's folder."""
    folder, name = Path(str(context.run_config["federation"])), str(context.run_config["run"])
    wanted, rounds = (int(part) for part in name.split("-")[1:3])
    while len(nodes := sorted(grid.get_node_ids())) < wanted:
        time.sleep(0.1)
    for number in range(rounds):
        started = time.monotonic()
        record = {"number": number, "replies": _ask(grid, nodes, number), "seconds": time.monotonic() - started}
        with (folder / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


def _ask(grid: Grid, nodes: list[int], number: int) -> list[dict[str, object]]:
    content = RecordDict({"ask": ConfigRecord({"number": number})})
    waiting = set(grid.push_messages([Message(content, node, "query", ttl=300) for node in nodes]))
    said: list[dict[str, object]] = []
    while waiting:
        for message in grid.pull_messages(list(waiting)):
            waiting.discard(message.metadata.reply_to_message_id)
            said.append({"error": message.error.code} if message.has_error() else dict(message.content["said"]))
        time.sleep(0.05)
    return said


@client.query()
def answer(message: Message, context: Context) -> Message:
    """Say what a relay sees of the machine it runs on."""
    said = {
        "number": message.content["ask"]["number"],
        "node": context.node_id,
        "process": os.getpid(),
        "parent": os.getppid(),
        "torch": int("torch" in sys.modules),
        "custodian": str(context.node_config["custodian"]),
        "unpacked": sorted(path.name for path in Path(os.environ["FLWR_HOME"]).rglob("*") if path.is_file()),
        "telemetry": os.environ["FLWR_TELEMETRY_ENABLED"],
    }
    return Message(RecordDict({"said": ConfigRecord(said)}), reply_to=message)
