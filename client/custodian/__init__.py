"""The custodian: the only process of a hospital that can read images, keys and the ledger."""
