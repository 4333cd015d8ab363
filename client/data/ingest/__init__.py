"""From a case's files to a canonical image in the archive, de-identified."""
