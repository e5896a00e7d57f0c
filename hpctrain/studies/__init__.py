"""Names that queued jobs of version 0.1.0 hold: their pickles import `hpctrain.studies.worker.work_on`. Gone in 0.3."""
