"""Sentence pairs of two languages as word numbers.

`source` imports no torch.
Imported by hpctrain.data.
"""
