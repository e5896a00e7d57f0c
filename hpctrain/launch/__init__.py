"""Starting runs and looking after them: ranks on this machine, jobs, status, failure, resume.

Imports no torch until a rank starts.
Imported by hpctrain.commands, hpctrain.sweep and hpctrain.scaling.
"""
