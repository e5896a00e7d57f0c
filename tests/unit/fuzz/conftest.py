"""What makes an example cheap: nothing is read twice."""

import copy

import pytest
from hydra._internal.config_repository import ConfigRepository


@pytest.fixture
def read_once(monkeypatch):
    """Each file of conf/ is read and parsed by Hydra once, not per example: that is half of an example's time."""
    load, kept = ConfigRepository.load_config, {}

    def load_config(self, config_path):
        if config_path.endswith("/mine"):  # what a test writes
            return load(self, config_path)
        place = (*(source.full_path() for source in self.sources), config_path)
        if place not in kept:
            kept[place] = load(self, config_path)
        return copy.deepcopy(kept[place])

    monkeypatch.setattr(ConfigRepository, "load_config", load_config)
