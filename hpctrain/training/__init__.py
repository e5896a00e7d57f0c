"""The training loop and what one step needs: session, loop, step, exchange, optimisers, precision, records.

The only package that talks to other ranks.
Imported by hpctrain.launch.
"""
