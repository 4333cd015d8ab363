"""A data set's canonical images, kept de-identified and memory-mapped."""
