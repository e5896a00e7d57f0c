"""Files of a run on shared storage: run directory, atomic JSON files, lock, records.

Standard library and PyYAML only, no torch: login nodes live here.
Imported by every package above hpctrain.report.
"""
