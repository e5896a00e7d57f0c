"""Pictures, pages and statistics that more than one kind of study needs.

Takes plain values, returns PNG bytes, HTML or numbers; reads no run.
Imported by hpctrain.training, hpctrain.sweep, hpctrain.scaling and hpctrain.commands.
"""
