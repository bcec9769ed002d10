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
# # 1 Diffusion and flow matching in two dimensions
#
# A **generative model** draws samples that look like its training data. The two families that
# robot policies use both start from Gaussian noise and remove it with a network, step by step:
# *diffusion* (DDPM, arXiv 2006.11239) and *flow matching* along straight lines, also called
# *rectified flow* (arXiv 2210.02747, 2209.03003). Here a sample is a point in the plane, so that
# you can see all of it. In a policy a sample is a video or a **chunk** of actions (those of the
# next second or so, predicted at once), and everything below stays as it is.

# %%
"""Diffusion and flow matching in two dimensions."""

import math
from collections.abc import Callable
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from lesson import full_or_quick
from torch import Tensor, nn

from wamkit.files.plots import scale_logarithmically

STEPS = full_or_quick(3000, 20)  # of training
POINTS = full_or_quick(2000, 100)  # that are drawn or generated


def draw_data(count: int, rng: torch.Generator) -> Tensor:
    """Points [count, 2] on two half circles, with mean 0 and variance about 1."""
    side = torch.randint(0, 2, (count,), generator=rng)
    angle = math.pi * torch.rand(count, generator=rng)
    x = torch.where(side == 0, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(side == 0, angle.sin(), 0.5 - angle.sin()) - 0.25
    noise = 0.05 * torch.randn(count, 2, generator=rng)
    return torch.stack([x / 0.87, y / 0.50], 1) + noise


# %% [markdown]
# ## The forward process: from data to noise
#
# Let $x$ be a data point and $\epsilon \sim \mathcal N(0, I)$ noise. The **forward process**
# mixes them.
#
# - DDPM: $x_t = \sqrt{\bar\alpha_t}\,x + \sqrt{1-\bar\alpha_t}\,\epsilon$, where $\bar\alpha_t$
#   falls from 1 to almost 0 over $T = 1000$ **timesteps** $t$. The squares of the two weights
#   sum to 1 (*variance preserving*).
# - Rectified flow: $x_\sigma = (1-\sigma)\,x + \sigma\,\epsilon$. The **noise level** $\sigma$
#   runs from 0 (data) to 1 (noise), and the path between a data point and its noise is a straight
#   line.

# %%
T = 1000
alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, T), 0)  # the schedule of DDPM


def mix_ddpm(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x [B, 2] at timesteps t [B]."""
    a = alpha_bar[t, None]
    return a.sqrt() * x + (1 - a).sqrt() * eps


def mix_flow(x: Tensor, eps: Tensor, sigma: Tensor) -> Tensor:
    """x [B, 2] at noise levels sigma [B]."""
    return (1 - sigma[:, None]) * x + sigma[:, None] * eps


rng = torch.Generator().manual_seed(0)
x, eps = draw_data(POINTS, rng), torch.randn(POINTS, 2, generator=rng)
figure, axes = plt.subplots(2, 5, figsize=(10, 4), sharex=True, sharey=True)
for column, level in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
    t = torch.full((POINTS,), round(level * (T - 1)))
    rows = mix_ddpm(x, eps, t), mix_flow(x, eps, torch.full((POINTS,), level))
    for axis, points in zip(axes[:, column], rows, strict=True):
        axis.scatter(*points.T, s=1, color="tab:blue")
    axes[0, column].set_title(f"DDPM, t = {int(t[0])}", fontsize=9)
    axes[1, column].set_title(rf"flow, $\sigma$ = {level}", fontsize=9)
axes[0, 0].set(xlim=(-3, 3), ylim=(-3, 3))
plt.tight_layout()
plt.show()

# %% [markdown]
# ## Learning to go back
#
# Both networks get a noisy point and its level. The DDPM network predicts the noise:
# $\mathcal L = \lVert \epsilon - \epsilon_\theta(x_t, t)\rVert^2$ (arXiv 2006.11239, eq. 14). The
# flow network predicts the **velocity**, the derivative of the straight path with respect to
# $\sigma$: $\mathcal L = \lVert (\epsilon - x) - v_\theta(x_\sigma, \sigma)\rVert^2$. wamkit
# trains video and actions with the second loss.


# %%
class Network(nn.Module):
    """A perceptron over a point and sinusoids of its level."""

    waves: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", math.pi * 2.0 ** torch.arange(-1, 4))
        widths = (2 + 2 * 5, 128, 128, 128)
        hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(128, 2))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x [B, 2] and levels [B] in [0, 1] to [B, 2]."""
        wave = level[:, None] * self.waves
        return self.layers(torch.cat([x, wave.sin(), wave.cos()], 1))


def train(loss_of: Callable[[nn.Module, Tensor, Tensor], Tensor], seed: int) -> nn.Module:
    """A network that has minimized `loss_of(network, data, noise)`."""
    torch.manual_seed(seed)  # of the first weights
    network, rng = Network(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        loss = loss_of(network, draw_data(512, rng), torch.randn(512, 2, generator=rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return network.eval()


levels = torch.Generator().manual_seed(1)


def ddpm_loss(network: nn.Module, x: Tensor, eps: Tensor) -> Tensor:
    """Mean squared error of the predicted noise."""
    t = torch.randint(0, T, (len(x),), generator=levels)
    return (network(mix_ddpm(x, eps, t), t / T) - eps).square().mean()


def flow_loss(network: nn.Module, x: Tensor, eps: Tensor) -> Tensor:
    """Mean squared error of the predicted velocity."""
    sigma = torch.rand(len(x), generator=levels)
    return (network(mix_flow(x, eps, sigma), sigma) - (eps - x)).square().mean()


denoiser, flow = train(ddpm_loss, 0), train(flow_loss, 0)

# %% [markdown]
# ## Sampling
#
# - **DDPM** (ancestral sampling) walks all $T$ timesteps and adds fresh noise at each.
# - **DDIM** (arXiv 2010.02502) uses the same network without fresh noise. It may skip timesteps:
#   estimate $\hat x = (x_t - \sqrt{1-\bar\alpha_t}\,\hat\epsilon)/\sqrt{\bar\alpha_t}$, then mix
#   $\hat x$ and $\hat\epsilon$ again at the next timestep.
# - **Rectified flow** integrates $\mathrm dx/\mathrm d\sigma = v_\theta(x, \sigma)$ from
#   $\sigma = 1$ to 0, by Euler steps $x \leftarrow x + (\sigma' - \sigma)\,v_\theta(x, \sigma)$.
#
# To compare samples with data we need one value: the **energy distance**
# $2\,\mathbb E\lVert X-Y\rVert - \mathbb E\lVert X-X'\rVert - \mathbb E\lVert Y-Y'\rVert$, which
# is 0 if and only if both distributions are the same.


# %%
@torch.no_grad()
def sample_ddpm(x: Tensor, rng: torch.Generator) -> Tensor:
    """Noise x [B, 2] to samples, in T steps."""
    for t in reversed(range(T)):
        before = alpha_bar[t - 1] if t else torch.tensor(1.0)
        alpha = alpha_bar[t] / before
        eps = denoiser(x, torch.full((len(x),), t / T))
        mean = (x - (1 - alpha) / (1 - alpha_bar[t]).sqrt() * eps) / alpha.sqrt()
        noise = torch.randn(x.shape, generator=rng) if t else 0.0
        x = mean + (1 - alpha).sqrt() * noise
    return x


@torch.no_grad()
def sample_ddim(x: Tensor, steps: int) -> list[Tensor]:
    """Every state [B, 2] from noise to samples."""
    states, times = [x], torch.linspace(T - 1, 0, steps + 1).long()
    for t, after in pairwise(times):
        eps = denoiser(states[-1], torch.full((len(x),), float(t) / T))
        clean = (states[-1] - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t].sqrt()
        states.append(alpha_bar[after].sqrt() * clean + (1 - alpha_bar[after]).sqrt() * eps)
    return states


@torch.no_grad()
def sample_flow(x: Tensor, steps: int) -> list[Tensor]:
    """Every state [B, 2] from noise to samples."""
    states, sigmas = [x], torch.linspace(1, 0, steps + 1)
    for sigma, after in pairwise(sigmas):
        velocity = flow(states[-1], sigma.expand(len(x)))
        states.append(states[-1] + (after - sigma) * velocity)
    return states


def energy_distance(a: Tensor, b: Tensor) -> float:
    """0 if points a [N, 2] and b [M, 2] follow the same distribution, and N and M are large."""
    between, within = torch.cdist(a, b).mean(), torch.cdist(a, a).mean() + torch.cdist(b, b).mean()
    return float(2 * between - within)


test, noise = draw_data(POINTS, rng), torch.randn(POINTS, 2, generator=rng)
counts = (1, 2, 3, 4, 8, 16, 32, 64)
ddim = [energy_distance(sample_ddim(noise, n)[-1], test) for n in counts]
euler = [energy_distance(sample_flow(noise, n)[-1], test) for n in counts]
ancestral = energy_distance(sample_ddpm(noise, rng), test)
floor = energy_distance(draw_data(POINTS, rng), test)  # of data to other data
for n, a, b in zip(counts, ddim, euler, strict=True):
    print(f"{n:3} steps   DDIM {a:.4f}   rectified flow {b:.4f}")
print(f"DDPM, {T} steps: {ancestral:.4f};  data against other data: {floor:.4f}")

figure, axes = plt.subplots(1, 4, figsize=(12, 3))
axes[0].plot(counts, ddim, "o-", label="DDIM")
axes[0].plot(counts, euler, "s-", label="rectified flow")
axes[0].axhline(floor, color="gray", ls=":", label="data")
axes[0].set(xlabel="network evaluations", ylabel="energy distance", xscale="log")
axes[0].set_xticks(counts, counts)
axes[0].minorticks_off()
scale_logarithmically(axes[0])
axes[0].legend()
for axis, n in zip(axes[1:], (1, 4, 16), strict=True):
    axis.scatter(*test.T, s=1, color="lightgray")
    axis.scatter(*sample_flow(noise, n)[-1].T, s=1, color="tab:orange")
    axis.set(title=f"rectified flow, steps: {n}", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
plt.tight_layout()
plt.show()

# %% [markdown]
# At the same number of evaluations rectified flow is closer to the data than DDIM, and from about
# 16 it is closer than DDPM with 1000. Yet the two families are one: DDIM's paths and the flow's
# paths are the same up to a scale (exercise 1). What differs is where the steps are. DDIM's
# timesteps are mostly at high noise (look at the first figure again), the flow's noise levels are
# spread evenly. With 1 step, the flow puts samples near the mean of the data, and that is no
# accident: in pure noise the best guess of $\epsilon - x$ is $\epsilon - \mathbb E[x]$.
#
# ## Why few steps suffice for a policy
#
# An Euler step is exact where the path of a sample is straight. Paths of *pairs* $(x, \epsilon)$
# are straight by construction, but where pairs cross, the best prediction is the mean of their
# velocities, and the path of a *sample* bends. A policy has an easier task than the one above:
# given the image, the **prompt** (the task, as text) and the **state** (what the robot measures of
# itself, such as the angles of its joints), few actions are right. So let the data be a piece of
# the upper half circle, more and more narrow. For so few data points the best prediction is known without
# training: $v(x_\sigma, \sigma) = (x_\sigma - \mathbb E[x \mid x_\sigma])/\sigma$, with the mean
# over data points weighted by $\exp(-\lVert x_\sigma-(1-\sigma)x\rVert^2/2\sigma^2)$.


# %%
def exact_paths(noise: Tensor, data: Tensor, steps: int) -> Tensor:
    """States [steps + 1, B, 2] under the best possible velocity for `data` [N, 2]."""
    states, sigmas = [noise], torch.linspace(1, 0, steps + 1)
    for sigma, after in pairwise(sigmas):
        apart = torch.cdist(states[-1], (1 - sigma) * data)
        mean = (-(apart**2) / (2 * sigma**2)).softmax(1) @ data
        states.append(states[-1] + (after - sigma) * (states[-1] - mean) / sigma)
    return torch.stack(states)


figure, axes = plt.subplots(1, 4, figsize=(12, 3))
for axis, width in zip(axes[:3], (1.0, 0.3, 0.05), strict=True):
    angle = math.pi * (0.5 + width * (torch.rand(400, generator=rng) - 0.5))
    data = torch.stack([angle.cos() / 0.87, angle.sin() / 0.50], 1)
    fine = exact_paths(noise[:100], data, 128)
    length = fine.diff(dim=0).norm(dim=-1).sum(0) / (fine[-1] - fine[0]).norm(dim=-1)
    ends = [exact_paths(noise[:100], data, n)[-1] for n in (1, 2, 4, 8, 16)]
    off = [float((end - fine[-1]).norm(dim=-1).mean()) for end in ends]
    axes[3].plot((1, 2, 4, 8, 16), off, "o-", label=f"{width:.0%} of the half circle")
    axis.scatter(*data.T, s=1, color="gray")
    axis.plot(*fine[:, :40].unbind(-1), color="tab:orange", linewidth=0.7)
    axis.set(title=f"{width:.0%} of the half circle", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
    print(f"{width:4.0%} of the half circle: length / distance of paths, mean {length.mean():.2f}")
axes[3].set(xlabel="Euler steps", ylabel="distance from the path's end")
scale_logarithmically(axes[3])
axes[3].legend(fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
# The narrower the data, the straighter the paths, and the closer a few steps come to their end.
# This is why policies get along with few: Fast-WAM (arXiv 2603.16666) denoises its actions in 10
# Euler steps.
#
# ## Exercises
#
# 1. DDPM's mixture and the flow's mixture differ by a scale only. Which $\sigma$ corresponds to
#    $\bar\alpha_t$?
#
# <details><summary>Answer</summary>
#
# Divide $x_t$ by $\sqrt{\bar\alpha_t}+\sqrt{1-\bar\alpha_t}$: the weights then sum to 1, so
# $\sigma = \sqrt{1-\bar\alpha_t}\,/\,(\sqrt{\bar\alpha_t}+\sqrt{1-\bar\alpha_t})$. With the
# schedule above $\sigma > 0.5$ already at $t = 300$: look at the first figure again. So a network
# that was trained as a diffusion model can be run as a flow. wamkit does such a conversion with
# Cosmos, one of its **backbones** (pretrained video networks on which policies are built).
# </details>
#
# 2. Let the data be a single point $x^*$. What is the velocity at $(x_\sigma, \sigma)$, and how
#    many Euler steps are needed?
#
# <details><summary>Answer</summary>
#
# $\epsilon = (x_\sigma - (1-\sigma)x^*)/\sigma$, so
# $v = \epsilon - x^* = (x_\sigma - x^*)/\sigma$. One step from $\sigma=1$ gives $x_1 - v = x^*$:
# exact.
# </details>
#
# 3. Replace Euler's steps by those of the midpoint method (a half step, then a full step with the
#    velocity found there). At how many network evaluations does it pay off?
#
# <details><summary>Answer</summary>
#
# `half = x + (after - sigma) / 2 * flow(x, sigma)`, then
# `x = x + (after - sigma) * flow(half, (sigma + after) / 2)`. It costs two evaluations a step, so
# compare it at equal evaluations. `examples/06_how_many_steps.py` does so with wamkit's solvers
# for a policy.
# </details>
