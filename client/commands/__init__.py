"""What the commands of a site do, without their words: from settings, keys and options to work, and to the audit log.

Promises
- Everything is checked before anything is changed: settings, keys, the audit log, the choices of the data set.
- What was done is one line in the audit log, with counts and digests only, written when the work is.
- No source path, and no name of a file in it, is part of a result, an error or the log.

Parsing words and printing tables is left to ``client.cli``.
"""
