"""A run of a real federation: its folder, what the lead sees of it, and the process that coordinates it."""
