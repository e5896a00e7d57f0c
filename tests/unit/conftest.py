"""What several packages' tests use."""

import signal

import pytest


@pytest.fixture
def at_once():
    """A reader that waits for a pipe's writer would wait for ever: the test is ended."""
    signal.alarm(120)
    yield
    signal.alarm(0)
