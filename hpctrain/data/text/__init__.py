"""Text: where it comes from, vocabularies, token files, sequences to train on.

All but `sequences` import no torch.
Imported by hpctrain.data.
"""
