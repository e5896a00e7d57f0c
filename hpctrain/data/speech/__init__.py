"""Recordings with transcripts, and their spectrograms.

`source` imports no torch.
Imported by hpctrain.data.
"""
