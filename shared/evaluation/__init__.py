"""Additive statistics, the metrics that are functions of their sum, and intervals that respect patients."""
