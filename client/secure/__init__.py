"""The site's side of secure aggregation: what it computes leaves under masks, and it judges whether they come off."""
