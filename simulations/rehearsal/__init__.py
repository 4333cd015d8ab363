"""A federation of real processes on one machine, for whoever wants to see it before hospitals join."""
