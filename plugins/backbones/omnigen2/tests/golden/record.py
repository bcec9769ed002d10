"""Records `omnigen2.safetensors`: what OmniGen2's own class computes at tiny size.

Run it in a checkout of github.com/VectorSpaceLab/OmniGen2 (Apache-2.0) at commit
0f72fa92564d9f8ba76f53fcc3c05aca2372458f, with torch, diffusers, einops and wamkit installed:

    PYTHONPATH=. python record.py omnigen2.safetensors

Weights and inputs are drawn in float32; velocities and gradients are computed from them in float64
on a CPU, so that every processor finds the same. In the file, `weights.` are those of the class,
`gradients.` the gradients of sum(direction * prediction) with respect to them, rounded to float32
to halve the file; the other names are inputs, the prediction and the inputs' gradients. The
prediction is that of the class, data - noise.
"""

import sys
from types import ModuleType

import torch
from safetensors.torch import save_file

from wamkit.testing.tolerance import float64, to_float64

# The repository's fused norm asks for a GPU as soon as it is imported; torch's is the same norm.
fused = ModuleType("omnigen2.ops.triton.layer_norm")
fused.RMSNorm = torch.nn.RMSNorm
sys.modules["omnigen2.ops.triton.layer_norm"] = fused

from omnigen2.models.transformers.repo import OmniGen2RotaryPosEmbed  # noqa: E402
from omnigen2.models.transformers.transformer_omnigen2 import (  # noqa: E402
    OmniGen2Transformer2DModel,
)

AXES, LENGTHS = (2, 2, 2), (64, 32, 32)
B, C, H, W, L, REFERENCES = 2, 4, 4, 6, 5, 2

model = OmniGen2Transformer2DModel(
    in_channels=C,
    hidden_size=24,
    num_layers=2,
    num_refiner_layers=1,
    num_attention_heads=4,
    num_kv_heads=2,
    multiple_of=8,
    ffn_dim_multiplier=0.25,
    axes_dim_rope=AXES,
    axes_lens=LENGTHS,
    text_feat_dim=8,
    timestep_scale=1000.0,
).eval()

rng = torch.Generator().manual_seed(1)
with torch.no_grad():
    for name, p in sorted(model.named_parameters()):
        draw = torch.randn(p.shape, generator=rng)
        if p.ndim == 1:
            p.copy_(1 + 0.2 * draw if name.endswith("weight") else 0.1 * draw)
        else:
            p.copy_(draw if "index" in name else draw / p[0].numel() ** 0.5)
        if "to_q" in name or "to_k" in name or "patch" in name or "x_embedder" in name:
            p.mul_(0.03)  # so small that the norms' epsilons can be distinguished

tensors = {
    "z": torch.randn(B, C, REFERENCES + 1, H, W, generator=rng),  # references, then the target
    "text": torch.randn(B, L, 8, generator=rng),
    "direction": torch.randn(B, C, H, W, generator=rng),
}
valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
sigma = torch.tensor([0.951, 0.0375])  # 1 is noise; the class counts the other way
exact = to_float64(model)
with float64():
    z, text, direction = (tensors[name].double() for name in ("z", "text", "direction"))
    prediction = exact(
        z.requires_grad_()[:, :, -1],
        1 - sigma.double(),
        text.requires_grad_(),
        OmniGen2RotaryPosEmbed.get_freqs_cis(AXES, LENGTHS, 10_000),
        valid,
        [[one[:, i] for i in range(REFERENCES)] for one in z],
    )
    (direction * prediction).sum().backward()
tensors |= {"valid": valid, "sigma": sigma, "prediction": prediction}
tensors |= {"z_gradient": z.grad, "text_gradient": text.grad}
for name, p in model.named_parameters():
    tensors[f"weights.{name}"] = p
    tensors[f"gradients.{name}"] = exact.get_parameter(name).grad.to(torch.float32)
save_file({name: t.detach().contiguous() for name, t in tensors.items()}, sys.argv[1])
