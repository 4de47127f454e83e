"""The exit codes of the command line.

0 is success. Errors of genrec carry their code in `exit_code` of their class in `genrec.errors`: 2 invalid input, 4
parts that do not match, 5 the model, the engine or the store is unavailable.
"""

DISK_FULL = 2
FAILED_ROWS = 3  # a batch run has ended, and some rows failed
INTERRUPTED = 130  # 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM
