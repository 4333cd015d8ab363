"""What stands in the report's lists: the row of numbers under the lead, the method, where everything came from.

Promises
- A fact is a term with its value, as ``results.json`` and the plan have it; nothing is computed here but a rounding.
- A number with noise in it is called an estimate wherever it stands.
"""

from __future__ import annotations

from server.report.metrics import LEVEL, TIMES, duration, interval, label, number
from server.report.run import Run
from server.shared_noise import colluding
from shared.privacy.terms import share_of


def facts(run: Run) -> list[tuple[str, str, str]]:
    """The numbers that stand first: term, value, and a detail that may be empty."""
    pooled, results, private = run.pooled, run.results, run.plan.privacy
    complete = sum(not entry.missing for entry in results.participation)
    bounds = interval(run.headline, pooled)
    found = [(label(run.headline), number(run.headline, pooled.value), f"{LEVEL} {bounds}" if bounds else "")]
    if pooled.n_patients:
        about = "about " if run.noised else ""
        found.append(("Test patients", f"{about}{pooled.n_patients}", "never seen in training"))
    rounds = len(results.participation)
    found.append(("Sites", str(len(run.sites)), f"all present in {complete} of {rounds} rounds" if rounds else ""))
    guarantee = f"ε = {private.epsilon:g}" if private.epsilon else "none"
    found.append(("Privacy", guarantee, _promise(run)))
    ratio = results.timing.overhead_ratio
    trained = results.timing.local_training_s
    told = f"{duration(trained)} in training" if trained else "from images to report"
    cost = f"{ratio:.2f} {TIMES} local training" if ratio else told
    return [*found, ("Time", duration(results.timing.total_s), cost)]


def _promise(run: Run) -> str:
    private, share = run.plan.privacy, share_of(run.plan)
    if private.delta is None:
        return "no differential privacy"
    assumed = f", if {colluding(share)}" if share else ""
    return f"δ = {private.delta:g}, per patient{assumed}"


def method(run: Run) -> list[tuple[str, str]]:
    """How the network was trained."""
    plan = run.plan
    size = f" {TIMES} ".join(map(str, plan.preprocessing.size))
    return [
        ("Network", plan.model.name),
        ("Input", f"{size} {'voxels' if plan.dimensions == 3 else 'pixels'}, {plan.preprocessing.colour}"),
        ("Rounds", f"{plan.plan.rounds}, with {plan.training.steps} local steps each"),
        ("Patients per step", str(plan.training.patients_per_step)),
        ("Optimiser", f"{plan.training.optimizer}, learning rate {plan.training.learning_rate:g}"),
        ("Aggregation", f"{plan.aggregation.method}, {plan.aggregation.weights} weights"),
        ("Seed", str(run.results.seed)),
    ]


def provenance(run: Run) -> list[tuple[str, str]]:
    """Digests and versions."""
    results = run.results
    digests = [("Run", results.run), ("Plan SHA-256", results.plan_digest), ("Model SHA-256", results.checkpoint)]
    return [pair for pair in digests if pair[1]] + sorted(results.versions.items())
