"""Pages for whoever sits at this machine: who may look, what is sent, how it looks; both sides use the same."""
