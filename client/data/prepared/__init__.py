"""Cases as a plan's network reads them: made from the archive, memory-mapped, divided by patient."""
