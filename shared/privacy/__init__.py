"""Patient-level differential privacy: noise, clipping, what was done (events) and what it costs (accounting)."""
