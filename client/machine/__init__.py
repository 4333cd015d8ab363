"""The machine doctor: whether this machine can take part, and what to ask of those who run it and its network."""
