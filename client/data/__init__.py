"""A site's cases: found, prepared, stored, split by patient."""
