"""How tests are shared among processes (pytest -n)."""

from xdist.scheduler import LoadScopeScheduling


class OneCluster(LoadScopeScheduling):
    """Each test goes to the next free process; those of the cluster all to one, as there is one cluster a session."""

    def _split_scope(self, nodeid):
        return "tests/slurm" if nodeid.startswith("tests/slurm/") else nodeid


def pytest_xdist_make_scheduler(config, log):
    return OneCluster(config, log)
