"""The model against step times that real jobs took on shaped links (tests/benchmarks/predicted_vs_measured.py).

Profiles and step times are those that were measured; the prediction is made anew, so that a change of the model
that takes it away from them shows.
"""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.scaling import calibration
from hpctrain.scaling.predict import Calibration
from hpctrain.scaling.start import load

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "predicted_vs_measured.json"
FOUND = json.loads(RESULTS.read_text())


def errors(document):
    """Of each point of a network, relative to what was measured; the profiles know one node, and 2.5 Gbit/s."""
    words = [*document["settings"], "cluster=devcluster", "scaling=weak", "scaling.gpus=1"]
    config, settings = load([*words, *document["model"]])
    hosts, bucket_bytes = config.cluster.nodes_per_host, config.comm.bucket_mb * 2**20
    known = Calibration(document["calibration"], hosts, 2.5, 0.5e-3, bucket_bytes)
    for point in document["points"]:
        there = replace(
            config,
            cluster=replace(config.cluster, link_gbit_per_s=point["gbit_per_s"]),
            resources=replace(config.resources, gpus_per_node=point["ranks_per_node"]),
        )
        gpus = point["nodes"] * point["ranks_per_node"]
        (predicted,) = calibration.curve(there, replace(settings, gpus=(gpus,)), known)
        yield 1e3 * predicted.step.total_s / point["measured_ms"] - 1


@pytest.mark.parametrize("name", FOUND)
def test_the_model_is_near_what_was_measured(name):
    points = FOUND[name]["points"]
    found = [abs(e) for e in errors(FOUND[name])]
    assert {point["gbit_per_s"] for point in points} == {1.0, 2.5, 10.0}
    assert statistics.median(found) <= 0.10
    assert max(found) <= 0.20
