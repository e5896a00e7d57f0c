"""Figures as their readers get them: what is drawn, before it is a PNG."""

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, in order; none becomes a file."""
    figures = []

    def savefig(figure, buffer, **_):
        figure.draw_without_rendering()
        figures.append(figure)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures
