"""The coordinator's end of the link: who may come in, what they may ask for, and how its processes are started."""
