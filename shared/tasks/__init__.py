"""The table of tasks that a plan can name.

Promises
- A task is found by its name alone: adding one is a module beside this one and a line in ``TASKS``.
- An unknown name is a ``PlanError`` that suggests the nearest known one.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.errors import PlanError
from shared.plan import Plan
from shared.plan_errors import suggest
from shared.tasks import classification, segmentation
from shared.tasks.task import Task

TASKS: dict[str, Callable[[Plan], Task]] = {
    "classification": classification.build,
    "segmentation": segmentation.build,
}


def task_for(plan: Plan) -> Task:
    """Resolve the plan's task; raises ``PlanError`` where there is none of that name."""
    name = plan.plan.task
    if name not in TASKS:
        raise PlanError(f"plan.task = {name!r} is not a task", hint=suggest(name, TASKS))
    return TASKS[name](plan)
