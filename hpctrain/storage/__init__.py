"""Files of a run on shared storage: run directory, atomic JSON files, lock, records.

No torch: commands on login nodes use it.
Imported by every package above hpctrain.report.
"""
