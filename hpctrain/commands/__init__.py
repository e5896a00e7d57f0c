"""The commands: each file turns one command line into calls of the packages below, prints, and returns an exit code.

No other package prints or parses a command line. `flags` is how they take flags, `say` what several of them print.
Imported by hpctrain/cli.py alone.
"""
