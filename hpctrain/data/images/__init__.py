"""Pictures: formats, folders and packed sets, decoding, sets in memory and sets decoded ahead of the step.

`decode` and `workers` import NumPy and Pillow only.
Imported by hpctrain.data.
"""
