"""Secure aggregation: what a site and the coordinator compute so that only the sum can be read."""
