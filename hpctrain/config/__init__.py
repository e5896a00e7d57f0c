"""The settings of a run: dataclasses and their bounds, checks, identity, Hydra's side.

`settings` imports neither Hydra nor torch; OmegaConf objects end in `compose`.
Imported by every package but hpctrain.models, hpctrain.report and hpctrain.storage.
"""
