"""tests/benchmarks/gpu.py: every part runs, on whatever device there is."""

from __future__ import annotations

import gpu
import pytest
import torch


def test_every_part_of_the_gpu_script_runs_on_a_cpu_at_a_tiny_size(tiny_study):
    prepared = str(tiny_study.prepared_dir)
    rows = dict(gpu.main(["--device", "cpu", "--small", "--prepared", prepared, "--epochs", "1"]))
    torch.use_deterministic_algorithms(False)
    assert set(gpu.VARIANTS) < rows.keys()
    for variant in gpu.VARIANTS:
        assert rows[f"two deterministic trainings of {variant}, equal to the bit"] == "yes"
    assert any(what.startswith("limit variant trained on") for what in rows)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_encoder_attention_takes_little_more_memory_than_resunet_on_the_gpu():
    bench = gpu.Bench(torch.device("cuda"), small=False)
    resunet = bench.peak_memory(gpu.VARIANTS["resunet"], 16, 256)
    for name in ("limit_encoder_attention", "encoder_attention", "encoder_and_gated_attention"):
        assert bench.peak_memory(gpu.VARIANTS[name], 16, 256) < 1.25 * resunet
