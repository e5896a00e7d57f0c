"""How a page of `hpctrain bench` reads what a run has measured."""

import json

import pytest

from hpctrain.data.derive import load
from hpctrain.scaling import bench_page
from hpctrain.storage.run_dir import RunDir
from tests.profiles import profile

SUMS = [{"bytes": 1024, "s": [2e-5, 1e-5, 3e-5]}, {"bytes": 4**9 * 1024, "s": [0.25]}]


def made_up_run(folder):
    """Two ranks; a slow first stretch, then steps of 10 and of 20 ms."""
    run = RunDir(folder)
    parts = {
        "data": 1.0,
        "forward": 2.0,
        "backward": 3.0,
        "allreduce": 2.0,
        "optimizer": 0.5,
        "checkpoint": 9.0,
    }
    lines = [
        {"kind": "train", "window_steps": 4, "window_s": 4.0, "samples_per_s": 1.0, "step_ms": parts},
        {"kind": "train", "window_steps": 4, "window_s": 0.04, "samples_per_s": 400.0, "mfu": 0.4,
         "gflop_per_s": 8.0, "roofline_share": None, "step_ms": parts | {"other": 1.5}},
        {"kind": "train", "window_steps": 4, "window_s": 0.08, "samples_per_s": 200.0, "mfu": 0.2,
         "gflop_per_s": 4.0, "roofline_share": None, "step_ms": parts | {"other": 2.5}},
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.write_profile(
        profile(
            2, 2, exchange_s=[0.001, 0.003],
            computing={"2": profile(2, 2)["computing"]["2"] | {"step_s": [[0.1, 0.1], [0.1005, 0.1005]]}},
            ceilings={
                "device": "a CPU", "threads": 1, "bytes_per_s": [1e9, 3e9], "sums": SUMS,
                "flops_per_s": [{"fp32": 4e9, "bf16": 9e9}, {"fp32": 6e9, "bf16": 9e9}],
            },
        )
    )  # fmt: skip
    run.state.beat(phase="done", summary={"device_peak": {"device": "a CPU"}})
    return run


def test_a_step_is_taken_apart_without_the_first_stretch(tmp_path):
    step = bench_page.read(made_up_run(tmp_path), "own").step
    assert step["step_s"] == pytest.approx(0.015)
    assert (step["samples_per_s"], step["samples_per_s_least"], step["samples_per_s_most"]) == (300, 200, 400)
    assert (step["gflop_per_s"], step["mfu"], step["roofline_share"]) == (6.0, pytest.approx(0.3), None)
    assert step["exchange_alone_s"] == pytest.approx(0.002)
    parts_ms = {part: pytest.approx(1e3 * s) for part, s in step["parts_s"].items()}
    # Of the 2 ms that rank 0 waits for the sums, it waits half a millisecond for the other rank's computing.
    assert parts_ms == {
        "data": 1.0, "forward": 2.0, "backward": 3.0, "communication": 1.5, "straggler": 0.5,
        "optimizer": 0.5, "rest": 2.0,
    }  # fmt: skip


def test_the_document_and_its_text(tmp_path):
    config = load(["lenet_digits", "resources.ranks=2"])
    found = bench_page.document(config, [bench_page.read(made_up_run(tmp_path), "own")])
    top = found["ceilings"]
    assert (top["flops_per_s"], top["bytes_per_s"]) == ({"fp32": 5e9, "bf16": 9e9}, 2e9)
    assert top["allreduce"][1] == {
        "bytes": 2**28, "s": 0.25, "least_s": 0.25, "bus_bytes_per_s": pytest.approx(2**30),
    }  # fmt: skip
    lines = bench_page.text(json.loads(json.dumps(found))).splitlines()
    assert lines[0] == "a CPU: 2 ranks, 1 CPU thread per rank"
    assert "fp32 5.0 GFLOP/s  bf16 9.0 GFLOP/s for each rank, all at once" in lines[1]
    assert any("256 MiB" in line and "1.074 GB/s" in line for line in lines)
    assert any(line.split() == ["communication", "1.500", "ms", "10.0%"] for line in lines)
    assert not any("roofline" in line for line in lines)


def test_tokens_are_counted_for_language_models(tmp_path):
    config = load(["char_lstm_python", "data.vocabulary_size=100"])
    found = bench_page.document(config, [bench_page.read(made_up_run(tmp_path), "own")])
    assert found["steps"][0]["tokens_per_s"] == 300 * config.data.sequence_length
    assert "tokens/s" in bench_page.text(found)
