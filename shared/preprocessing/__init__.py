"""From files to one canonical image, and from there to what a network reads: deterministic, with public constants only."""
