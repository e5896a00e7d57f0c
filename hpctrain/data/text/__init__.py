"""Text: sources, vocabularies, token files, training sequences.

All but `sequences` import no torch.
Imported by hpctrain.data.
"""
