"""What a hospital permits, and what it has done and let out: audit log and ledger."""
