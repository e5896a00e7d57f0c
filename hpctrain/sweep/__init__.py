"""Hyperparameter studies: the space, the queue of runs, the jobs that work on them, and the results.

Reads and writes runs/<study>/.study; never imports hpctrain.scaling.
Imported by hpctrain.commands.
"""
