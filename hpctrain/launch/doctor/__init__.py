"""Whether a cluster is as its preset says: judgement of Slurm's answers and of a job of two ranks.

`examine` asks and starts the test job, `findings` is pure, `job` is one rank of the test job.
Imported by hpctrain.commands.
"""
