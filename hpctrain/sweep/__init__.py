"""Hyperparameter studies: what is swept, who works on which run, what was found.

Reads and writes runs/<study>/.study; never imports hpctrain.scaling.
Imported by hpctrain.commands.
"""
