"""The coordinator: rounds, exact sums, checkpoints and the report."""
