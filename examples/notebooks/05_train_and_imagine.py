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
# # 5 Train a policy in five minutes, and look at what it imagines
#
# One policy, from a table of parts to actions, with the training loop written out. It sees one
# image of a white dot (the robot) and a red one (the target), and a prompt. It learns 8
# velocities and two images that come while they are executed, one halfway and one at the end.

# %%
"""Train a policy in five minutes, and look at what it imagines."""

import matplotlib.pyplot as plt
import torch
from lesson import count_weights, find_dot, full_or_quick, show_gif, side_by_side, to_images
from toy_task import FLOW, SIZE, VELOCITY, demonstrations
from toy_task import STEPS as ACTIONS

import wamkit
from wamkit.files.plots import scale_logarithmically

STEPS = full_or_quick(2000, 4)  # of training
BATCH = full_or_quick(32, 8)
TIMES = (0, 4, 8)  # when an image is taken, in actions

# %% [markdown]
# ## Five parts
#
# The **spec** names a video backbone, a VAE, a text encoder, an action head and a paradigm, and
# the sizes of the robot: cameras, actions, state. `wamkit.check` lists every conflict between
# them, before anything is built.

# %%
SPEC = {
    "backbone": {"name": "toy", "depth": 2, "head_dim": 24, "patch_size": 1, "predicts": "data"},
    "vae": {"name": "pixel_shuffle", "strides": [1, 8, 8]},  # 8 x 8 pixels to one latent pixel
    "text_encoder": {"name": "bytes", "max_length": 12},
    "action_head": {"name": "mot", "width": 48, "mlp_dim": 192, "state": "token"},
    "paradigm": {"name": "joint"},  # future and action are denoised together
    "actions": {"chunk_size": ACTIONS, "control_hz": ACTIONS, "groups": [VELOCITY]},
    "state": {"size": 2, "normalization": "none"},
    "cameras": {"views": [{"name": "top", "size": [SIZE, SIZE]}]},
    "video": {"num_frames": len(TIMES), "frame_stride": TIMES[1]},
    "schedules": {"video": FLOW, "action": FLOW},
}
print("conflicts:", wamkit.check(SPEC))
policy = wamkit.build(SPEC)
print(f"{count_weights(policy):,} weights; tokens by role: {policy.spec.tokens()}")

# %% [markdown]
# ## The training loop
#
# `policy.loss` draws a noise level for the action and one for the future, mixes in noise, runs
# one pass and compares the predicted velocities with the true ones: one loss for `action`, one
# for `video`, and their sum. The seed makes its draws repeatable.

# %%
practice = demonstrations(full_or_quick(4096, 64), seed=0, images=TIMES)
test = demonstrations(full_or_quick(256, 8), seed=1, images=TIMES)
seen = test.observation()  # the first image, the place of the dot and the prompt of each task

optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, weight_decay=0.01)
rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(20, STEPS))
rng = torch.Generator().manual_seed(0)
losses: dict[str, list[float]] = {"action": [], "video": []}
held_out: list[tuple[int, float]] = []
for step in range(STEPS):
    rows = torch.randint(len(practice.actions), (BATCH,), generator=rng)
    loss = policy.train().loss(practice.batch(rows), seed=step)
    optimizer.zero_grad()
    loss.total.backward()
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    rate.step()
    for part, value in loss.parts.items():
        losses[part].append(value.item())
    if step % max(1, STEPS // 8) == 0 or step == STEPS - 1:
        chunk = policy.eval().act(seen, seed=0)
        held_out.append((step, float(test.errors(chunk.values).mean())))

figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for part, values in losses.items():
    size = max(1, STEPS // 50)
    means = torch.tensor(values[: len(values) // size * size]).view(-1, size).mean(1)
    axes[0].plot(range(0, size * len(means), size), means, label=part)
axes[0].set(xlabel="training step", ylabel="loss")
scale_logarithmically(axes[0])
axes[0].legend()
axes[1].plot(*zip(*held_out, strict=True), "o-", color="tab:green")
axes[1].axhline(float(test.errors(0 * test.actions).mean()), color="gray", ls=":")
axes[1].set(xlabel="training step", ylabel="distance from the right way", ylim=(0, None))
axes[1].set_title("dotted: a dot that stays", fontsize=9)
plt.tight_layout()
plt.show()
print(f"distance from the right way: {held_out[0][1]:.3f} before, {held_out[-1][1]:.3f} after")

# %% [markdown]
# The losses of action and video are of different size: a loss is the squared error of a velocity,
# noise minus data, and how much of it can be known differs. Compare a loss with itself at other
# steps only.
#
# ## What it does
#
# Eight test tasks: the first image, the right way (white), and the way that the 8 velocities lead
# (yellow).

# %%
chunk = policy.act(seen, seed=0)
way = (
    test.ways[:, 0, :1] + torch.cat([0 * chunk.values[:, :1], chunk.values.cumsum(1)], 1) / ACTIONS
)
figure, axes = plt.subplots(1, 8, figsize=(12, 1.8))
for i, axis in enumerate(axes):
    axis.imshow(test.images[i, 0].permute(1, 2, 0), extent=(0, 1, 1, 0))
    axis.plot(*test.ways[i, 0].T, color="white", linewidth=3)
    axis.plot(*way[i].T, color="yellow", linewidth=1.5)
    axis.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(1, 0))
plt.tight_layout()
plt.show()

# %% [markdown]
# ## What it imagines
#
# The first image is observed; the two after it are imagined from noise. In each pair of rows:
# above what came, below what was imagined.

# %%
imagined = to_images(policy.imagine(seen, seed=0).canvas)  # [256, 3, 24, 24, 3]
came = test.images.permute(0, 1, 3, 4, 2)
figure, axes = plt.subplots(2, 4, figsize=(10, 4))
for i, axis in enumerate(axes.flat):
    axis.imshow(torch.cat([torch.cat(list(clip[i]), 1) for clip in (came, imagined)]))
    axis.set(xticks=[], yticks=[])
plt.tight_layout()
plt.show()
show_gif(side_by_side(came, imagined, 6), milliseconds=600)

# %% [markdown]
# ## Is the imagined future right?
#
# Squared errors of pixels say little: a dot that is one pixel off counts twice, as missing here
# and as wrong there. So find the white dot in each image, true or imagined, and compare its place
# with the true one. Two baselines: the place at the start (a copy of the present), and what the
# finder itself gets wrong.

# %%
places = test.ways[:, 0, list(TIMES)]  # [256, 3, 2], in fields
first = find_dot(came)[:, :1].expand_as(places)
found = {"imagined": find_dot(imagined), "copy of the present": first, "true image": find_dot(came)}
figure, axis = plt.subplots(figsize=(5, 3))
for name, dots in found.items():
    axis.plot(TIMES, (dots - places).norm(dim=-1).median(0).values, "o-", label=name)
axis.set(xlabel="time, in actions", ylabel="median error of the dot, in fields", ylim=(0, None))
axis.legend()
plt.tight_layout()
plt.show()

# %% [markdown]
# In the recorded run the end is imagined almost exactly: the dot has to be where the target is,
# and the target is seen. Halfway is harder, as that place has to be computed from two others. The
# images show how it fails: half dots, cut at the edges of a token of 8 x 8 pixels, and sometimes
# two or none. Each token denoises its own patch, and they have not quite agreed on where the dot
# is.
#
# ## Exercises
#
# 1. Call `policy.imagine` with seeds 0 to 3 for one task. What differs between the futures, and
#    what does not?
#
# <details><summary>Answer</summary>
#
# The floor and the target are the same in all of them: they are known from the present. The dot's
# place varies where the network is not sure. Since there is one right way, this spread is the
# network's, and not the world's; with `demonstrations(..., arcs=True)` there are two right ways,
# and both should turn up.
# </details>
#
# 2. Set `"predicts": "velocity"`, train again, and look at the images. Explain the difference.
#
# <details><summary>Answer</summary>
#
# Now the last layer has to reproduce the noise of a patch: 192 independent values from a token of
# 96. It cannot, so part of the noise stays in every image. Images themselves lie on few
#     dimensions (arXiv 2511.13720). The actions hardly suffer: 2 values pass a token of 48
#     easily.
# </details>
#
# 3. Does the imagined dot go where the actions lead? Compare `found["imagined"][:, -1]` with
#    `way[:, -1]`.
#
# <details><summary>Answer</summary>
#
# `(found["imagined"][:, -1] - way[:, -1]).norm(dim=-1).median()`. Both are near the target if
# training went well, so compare also with the places of *other* tasks (`way[:, -1].roll(1, 0)`).
# To test whether the action follows what is imagined, change the future that it sees: `idm` takes
# `stop_sigma` (notebook 4).
# </details>
