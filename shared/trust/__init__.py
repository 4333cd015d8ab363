"""Who is who in a federation: signed documents by which sites know their lead, and the lead its sites."""
