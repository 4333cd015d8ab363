"""The smallest training there is: a linear model that fits a number, so that tests can check it by hand."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from client.training.batches import TrainingData
from shared.evaluation.additive import Schema
from shared.plan import Plan, from_document
from shared.preprocessing.image import Case
from shared.tasks.task import Task

CPU = torch.device("cpu")


def make_plan(**changes: Any) -> Plan:
    document: dict[str, Any] = {
        "plan": {"name": "line", "task": "fit", "rounds": 4, "seed": 1},
        "data": {"modality": "other", "classes": ["a", "b"]},
        "preprocessing": {"size": [4, 4]},
        "model": {"name": "linear"},
        "training": {"steps": 5, "patients_per_step": 4, "learning_rate": 0.1, "optimizer": "sgd", "momentum": 0.0},
        "privacy": {"unit": "none"},
    }
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        document.setdefault(section, {})[key] = value
    return from_document(document)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets).pow(2)


FIT = Task(
    name="fit",
    output_channels=1,
    output="image",
    headline="error",
    target=lambda case: np.float32(case.label or 0),
    loss=squared_error,
    decode=lambda outputs: outputs.numpy(),
    schema=Schema("fit-1", ()),
    observe=lambda _scores, _case: {},
    metrics=lambda _counts: {},
    describe=lambda _scores, _case: {},
)


def make_data(count: int = 12) -> TrainingData:
    rng = np.random.default_rng(5)
    cases = [
        Case(f"c{i}", f"p{i // 2}", rng.standard_normal((1, 4, 4), dtype=np.float32), None, i % 3, (1.0, 1.0))
        for i in range(count)
    ]
    return TrainingData(cases, tuple((i, i + 1) for i in range(0, count, 2)))


def make_model() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.05)
    return model
