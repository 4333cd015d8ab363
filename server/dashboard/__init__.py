"""A page for the consortium lead, on the coordinator's own machine: what the federation does, as it happens."""
