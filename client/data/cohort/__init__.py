"""The frozen, signed set of cases that a site trains on."""
