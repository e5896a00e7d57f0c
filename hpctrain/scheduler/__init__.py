"""Everything that Slurm is told or says: sbatch text and answers (pure), the client, submission.

Knows jobs, not runs' files beyond their submission.
Imported by hpctrain.launch and everything above it.
"""
