"""The coordinator's side of secure aggregation: it adds up what it cannot read, and learns the sum."""
