"""Checkpoints: committed whole or not at all, verified before use, kept by a policy, compared.

The commit protocol is in store.py, the training side in saver.py.
Imported by hpctrain.training and everything above it.
"""
