"""Scaling studies: their runs, the laws fitted to measured steps, the model of the exchange, predictions.

Arithmetic and files only, no torch; never imports hpctrain.sweep.
Imported by hpctrain.commands.
"""
