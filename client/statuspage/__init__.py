"""How a site does, for hospital IT: one look at its folder and processes, as lines, as a page, and as numbers."""
