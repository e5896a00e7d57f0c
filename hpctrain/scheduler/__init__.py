"""Everything that Slurm is told and says: sbatch text and answers (both pure), the client, submission.

Knows jobs; of a run's files it knows only the submission.
Imported by hpctrain.launch and everything above it.
"""
