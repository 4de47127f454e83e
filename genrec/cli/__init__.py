"""The command line: one module for each command; `options`, `terminal`, `loading` and `tables` are shared.

Only this package reads the environment, the clock and the terminal. Heavy modules are imported when a command runs, so
that `genrec --help` is fast.
"""
