"""From files to one canonical image, and on to what a network reads: deterministic, with public constants only."""
