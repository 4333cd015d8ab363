"""Keys, signatures and sealing: the only place, with ``shared.privacy``, that calls ``cryptography``."""
