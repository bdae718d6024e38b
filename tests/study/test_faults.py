"""study/faults.py: what goes wrong is told in one sentence."""

from __future__ import annotations

import pytest
import torch

from pipeline.study import faults
from pipeline.study.errors import UserError


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            RuntimeError("x_cuda does not have a deterministic implementation, but you set ..."),
            "set train.deterministic: false to train without the promise",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "memory ran out"),
        (OSError(12, "Cannot allocate memory"), "memory ran out"),
    ],
)  # fmt: skip
def test_a_machines_faults_are_told_in_a_sentence(tiny_study, fault, told):
    with pytest.raises(UserError, match=told), faults.machine_faults_told(tiny_study):
        raise fault


def test_cudas_word_for_it_is_memory_that_ran_out_and_other_errors_stay(tiny_study):
    told = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1 GiB"
    with (
        pytest.raises(
            UserError, match=r"^memory ran out with train\.batch_size 8 at 64x32 pixels:"
        ),
        faults.machine_faults_told(tiny_study),
    ):
        raise torch.OutOfMemoryError(told)
    with pytest.raises(RuntimeError, match="another"), faults.machine_faults_told(tiny_study):
        raise RuntimeError("another")
