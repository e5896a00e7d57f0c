"""A run's folder, of which the state is lost."""

import json

import pytest

from hpctrain.storage.run_dir import RunDir


class Folder(RunDir):
    """A run's folder, of which the state is lost."""

    def begin(self, number=1, token="local-x", **outcomes):
        self.attempt(number).mkdir(parents=True, exist_ok=True)
        (self.attempt(number) / "token").write_text(token)
        for rank, outcome in outcomes.items():
            who = {"rank": int(rank[1:]), "outcome": outcome, "host": "n1", "time": float(rank[1:])}
            self.rank_file(number, int(rank[1:])).write_text(json.dumps(who))

    def record(self, *lines):
        self.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def submitted(self, *scripts, config="cluster: {name: c, kind: slurm, slurm_conf: /etc/c.conf}"):
        self.submitit.mkdir()
        self.config_file.write_text(config)
        for number, token in scripts:
            (self.submitit / f"{number}_submission.sh").write_text(
                f"#!/bin/bash\n#SBATCH --comment=hpctrain:{self.run_id}:{token}\n"
                f"#SBATCH --output={self.submitit}/%j_0_log.out\n"
            )


@pytest.fixture
def run(tmp_path):
    (tmp_path / "s" / "net-1").mkdir(parents=True)
    return Folder(tmp_path / "s" / "net-1")
