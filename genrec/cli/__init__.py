"""The command line: one file a command, and the words they share in `option`, `terminal`, `source` and `listing`.

Only here are the environment, the clock and the terminal touched. Nothing heavy is imported before a command runs,
so that `genrec --help` answers at once.
"""
