"""models/attenresunet/attention.py against its formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from models import build_model
from models.attenresunet import AttenResUNetConfig
from models.attenresunet.attention import AttentionGate, EncoderAttention, attention_maps


def linear(convolution: nn.Conv2d, tokens: Tensor) -> Tensor:
    """A 1x1 convolution as the matrix product it is: tokens (N, positions, in_channels)."""
    assert convolution.bias is not None
    return tokens @ convolution.weight[:, :, 0, 0].T + convolution.bias


def written_out_gate(gate: AttentionGate, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """alpha x and alpha, on tokens (N, positions, channels)."""
    inner = torch.relu(linear(gate.from_features, x) + linear(gate.from_gate, g))
    projection = gate.alpha[1]
    assert isinstance(projection, nn.Conv2d)
    alpha = 1 / (1 + torch.exp(-linear(projection, inner)))
    return alpha * x, alpha


def written_out_attention(module: EncoderAttention, x: Tensor) -> Tensor:
    """The whole module with the attention matrix held and the softmax spelled out."""
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (linear(conv, tokens) for conv in (module.query, module.key, module.value))
    weights = torch.exp(q @ k.transpose(1, 2) * module.scale)
    attended = weights / weights.sum(dim=-1, keepdim=True) @ v
    if module.residual:
        attended = attended + tokens
    if module.gate is not None:
        signal = tokens if module.gate_signal == "input" else attended
        attended, _ = written_out_gate(module.gate, attended, signal)
    return attended.transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("scale", ["none", "sqrt"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("gate", ["input", "attended", "none"])
def test_fused_attention_equals_the_written_out_formula(scale, residual, gate):
    torch.manual_seed(0)
    module = EncoderAttention(6, scale=scale, residual=residual, gate=gate).double()
    x = torch.randn(3, 6, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(module(x), written_out_attention(module, x), rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_first_layers_attention_at_256x256_never_holds_its_matrix(dtype, layout):
    """4,096 positions: the kernel that holds the matrix is forbidden, and gradients flow still."""
    module = EncoderAttention(64).to(dtype)
    x = torch.randn(1, 64, 64, 64, dtype=dtype).to(memory_format=layout).requires_grad_()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        module(x).sum().backward()
    assert x.grad is not None


def test_fused_attention_has_the_gradients_of_the_written_out_formula():
    torch.manual_seed(1)
    module = EncoderAttention(6).double()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    inputs = [x, *module.parameters()]
    fused = torch.autograd.grad((module(x) * direction).sum(), inputs)
    written = torch.autograd.grad((written_out_attention(module, x) * direction).sum(), inputs)
    for one, other in zip(fused, written, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_the_papers_attention_is_not_scaled():
    assert EncoderAttention(64).scale == 1.0
    assert EncoderAttention(64, scale="sqrt").scale == pytest.approx(1 / 8)


def test_gate_equals_the_formula():
    torch.manual_seed(2)
    gate = AttentionGate(6, 4).double()
    x, g = torch.randn(2, 6, 3, 5).double(), torch.randn(2, 4, 3, 5).double()
    expected, alpha = written_out_gate(gate, *(t.flatten(2).transpose(1, 2) for t in (x, g)))
    torch.testing.assert_close(gate(x, g).flatten(2).transpose(1, 2), expected, rtol=0, atol=1e-12)
    assert alpha.shape == (2, 15, 1)
    assert ((alpha > 0) & (alpha < 1)).all()


def test_attention_received_is_the_mean_of_the_attention_matrix_rows():
    torch.manual_seed(3)
    module = EncoderAttention(6)
    x = torch.randn(2, 6, 4, 5)
    tokens = x.flatten(2).transpose(1, 2)
    q, k = linear(module.query, tokens), linear(module.key, tokens)
    matrix = (q @ k.transpose(1, 2)).softmax(dim=-1)
    received = module.received(x, rows=7)  # 20 positions: the last block of rows is shorter
    torch.testing.assert_close(received.flatten(1), matrix.mean(dim=1))
    torch.testing.assert_close(received.sum(dim=(1, 2, 3)), torch.ones(2))


def test_attention_maps_cover_every_module_and_leave_the_logits_and_the_model_as_they_are():
    torch.manual_seed(4)
    config = AttenResUNetConfig(encoder="resnet18", encoder_attention=(1, 3), decoder_gates=True)
    model = build_model(config).eval()
    images = torch.randn(2, 3, 64, 64)
    logits, maps = attention_maps(model, images)
    assert {name: tuple(map_.shape) for name, map_ in maps.items()} == {
        "encoder_attention.1": (2, 1, 16, 16),
        "encoder_attention.1.gate": (2, 1, 16, 16),
        "encoder_attention.3": (2, 1, 4, 4),
        "encoder_attention.3.gate": (2, 1, 4, 4),
        "decoder.0.gate": (2, 1, 4, 4),
        "decoder.1.gate": (2, 1, 8, 8),
        "decoder.2.gate": (2, 1, 16, 16),
        "decoder.3.gate": (2, 1, 32, 32),
    }
    torch.testing.assert_close(logits, model(images), rtol=0, atol=0)
    assert not any(module._forward_hooks for module in model.modules())
