# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2 A DiT block, and four ways to tell it the noise level
#
# The network that removes noise from video and actions is a **diffusion transformer** (DiT;
# Peebles and Xie 2022, arXiv 2212.09748). Latent frames (small images of many channels, made by
# an autoencoder, the **VAE**) are cut into patches, each patch becomes a **token** (a vector of
# width $D$), and tokens pass a stack of blocks:
#
# 1. **self-attention**: every token reads the others (queries, keys, values),
# 2. **cross-attention**: every token reads the prompt's text tokens,
# 3. **MLP**: every token by itself,
#
# each added to the token (a *residual* sum). What such a block needs besides the tokens is the
# noise level $\sigma$: at $\sigma = 0.9$ the network should guess, at $\sigma = 0.1$ it should
# retouch. This **conditioning** is the subject here. wamkit's `toy` backbone, a video network that
# is small enough for a laptop, has the four ways of the paper as its setting `conditioning`.
#
# The policy below has two stacks of such blocks: the backbone for the video, and an **action
# expert**, a narrower stack for the tokens of the actions (notebook 3). Its **paradigm**, how video
# and actions relate, is **`joint`**: both are denoised together (notebook 4).

# %%
"""A DiT block, and four ways to tell it the noise level."""

from typing import Any

import matplotlib.pyplot as plt
import torch
from lesson import count_weights, full_or_quick
from toy_task import SPEC, demonstrations, learn

import wamkit
from wamkit.files.plots import scale_logarithmically

STEPS = full_or_quick(500, 4)  # of training, for each of the four
WAYS = ("in_context", "cross_attention", "adaln", "adaln_zero")
COLORS = dict(zip(WAYS, ("tab:gray", "tab:green", "tab:blue", "tab:orange"), strict=True))


def build(conditioning: str) -> wamkit.Policy:
    """A small policy; video and action expert are conditioned in the same way."""
    spec: dict[str, Any] = {**SPEC, "paradigm": {"name": "joint"}}
    spec["backbone"] = {**SPEC["backbone"], "conditioning": conditioning}
    spec["action_head"] = {**SPEC["action_head"], "block": "backbone"}
    return wamkit.build(spec)


# %% [markdown]
# ## Four ways
#
# Let $e(\sigma)$ be an embedding of the noise level: sinusoids of $1000\,\sigma$, then a small
# MLP.
#
# | setting | what the block makes of $e(\sigma)$ |
# |---|---|
# | `in_context` | it is in the sequence: $x \leftarrow x + W e(\sigma)$. DiT appends one more token; here each frame has a noise level of its own, so each token carries its own |
# | `cross_attention` | one more key and value $W_k e(\sigma), W_v e(\sigma)$ next to those of the text tokens |
# | `adaln` | **adaptive layer norm**: shift $\beta$, scale $\gamma$ and gate $\alpha$, all linear in $e(\sigma)$: $x \leftarrow x + \alpha\,f\big((1+\gamma)\,\mathrm{LN}(x) + \beta\big)$, once with $f$ = attention, once with $f$ = MLP |
# | `adaln_zero` | the same, with the weights of $\alpha, \beta, \gamma$ zero before training: all gates are closed |
#
# (DiT's plain `adaln` has no gate; wamkit's has one, so that the last two differ in their first
# weights and in nothing else.) A block calls what it makes of the level its **modulation**. It
# depends on the level alone, so wamkit computes it once for all steps of a sampling run.

# %%
LEVELS = torch.tensor([0.0, 0.5, 1.0])
policies = {way: build(way) for way in WAYS}
for way, policy in policies.items():
    backbone = policy.backbone
    modulation = backbone.blocks[0].modulation(backbone.embed_sigma(LEVELS))
    first = count_weights(backbone.blocks[0].ada)
    print(f"{way:16} modulation of 3 levels {list(modulation.shape)!s:13}", end="")
    print(f" {first:6,} of {count_weights(backbone.blocks[0]):6,} weights of a block are for it")

# %% [markdown]
# adaLN's linear layer makes $6D$ values of a level, and takes 27 % of a block's weights here. It
# takes hardly any time: levels are few and known before sampling starts, so the table is computed
# once. DiT counts 15 % more operations for cross-attention, since it adds that layer for the
# level; here the layer is there anyway, for the prompt.
#
# ## Measured
#
# The task is in `examples/toy_task.py`: a dot goes to a target. All four start from the same
# seed, see the same batches and the same noise. The **held-out loss** is computed on tasks that
# are not trained on, always with the same noise, so that curves can be compared.

# %%
practice = demonstrations(full_or_quick(4096, 64), seed=0)
test = demonstrations(full_or_quick(256, 8), seed=1)
held_out = test.batch(torch.arange(len(test.actions)))
curves: dict[str, list[tuple[int, float]]] = {}
gates: list[tuple[int, float]] = []  # of adaln_zero: how far they are open
for way, policy in policies.items():
    curves[way] = []
    for step, _ in enumerate(learn(policy, practice, STEPS)):
        if step % max(1, STEPS // 20) and step != STEPS - 1:
            continue
        with torch.no_grad():
            curves[way].append((step, float(policy.loss(held_out, seed=1).total)))
            if way == "adaln_zero":
                rows = policy.backbone.blocks[0].modulation(policy.backbone.embed_sigma(LEVELS))
                gates.append((step, float(rows[:, 2::3].abs().mean())))

figure, axes = plt.subplots(1, 2, figsize=(10, 3.2))
for way, points in curves.items():
    axes[0].plot(*zip(*points, strict=True), color=COLORS[way], label=way)
axes[0].set(xlabel="training step", ylabel="held-out loss")
scale_logarithmically(axes[0])
axes[0].legend()
axes[1].plot(*zip(*gates, strict=True), color=COLORS["adaln_zero"])
axes[1].set(xlabel="training step", ylabel="mean |gate|, block 0", title="adaln_zero opens")
plt.tight_layout()
plt.show()

for way, policy in policies.items():
    chunk = policy.act(test.observation(), seed=0)
    wrong = test.errors(chunk.values).mean()
    print(f"{way:16} held-out loss {curves[way][-1][1]:.3f}   distance from the way {wrong:.4f}")

# %% [markdown]
# All four learn, and in the recorded run they end within 2 % of each other in loss: for a task so
# small, and one seed, that is no ranking. At scale there is one. In DiT (ImageNet, 256 x 256
# pixels, DiT-XL/2), adaLN-Zero had the best image quality at every point of training, and after
# 400,000 steps almost half the FID (a distance between generated and real images) of in-context
# conditioning. Wan, LTX-Video and Cosmos-Predict2 use adaLN with gates.
#
# The right figure shows what "Zero" means: all gates begin at 0, every block at first passes on
# its input (but for what it reads of the prompt), and opens as far as that lowers the loss. Deep
# networks train more stably this way.
#
# ## Exercises
#
# 1. Why can self-attention not tell the noise level from the tokens themselves, without any
#    conditioning? Or can it?
#
# <details><summary>Answer</summary>
#
# It can, in part: the variance of the latents shows how noisy they are, and a network without
# conditioning does learn something. For a few action tokens the guess is poor, and at $\sigma$
# near 0 and 1 it matters most. Test it: in `in_context`, set `ada` of every block to zero and
# freeze it.
# </details>
#
# 2. In a **World-Action Model** (a policy that learns what to do and what will be seen) the
#    observed frame has $\sigma = 0$ while the future frame has 0.7. What does that mean for
#    `modulation`, and why would one vector for the whole pass not do?
#
# <details><summary>Answer</summary>
#
# Rows of modulation are gathered per frame: the blocks get `[B, frames, 6, D]`. With one vector
# for all, the network would treat the clean frame as noisy or the noisy one as clean. Also, the
# clean frame's keys would change at every step, and could not be cached.
# </details>
#
# 3. Repeat the training with three more seeds of first weights (`SPEC | {"seed": 1}`) and of
#    `learn(..., seed=1)`. Is the order of the four the same?
#
# <details><summary>Answer</summary>
#
# There is no reason that it should be: gaps of 1 or 2 % are of the size that a seed changes.
# Notebook 6 shows how to put an interval around such a difference.
# </details>
