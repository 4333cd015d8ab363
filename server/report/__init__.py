"""The report of a run, for people: one HTML page, a terminal table, a comparison of runs."""
