"""The settings of a run: dataclasses with bounds, checks, identity, composition by Hydra.

`settings` imports neither Hydra nor torch; OmegaConf objects do not leave `compose` and `sweep_grammar`.
Imported by every package except hpctrain.models, hpctrain.report and hpctrain.storage.
"""
