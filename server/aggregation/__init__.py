"""Exact sums of updates, and how a sum becomes the next global model."""
