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
# # 4 Four paradigms, trained side by side
#
# A **World-Action Model** is trained on two things: what to do (actions) and what will be seen
# (future frames, the *target*). How the two relate when the robot acts is what published systems
# differ in. wamkit calls it the **paradigm**:
#
# | paradigm | when the robot acts | published in |
# |---|---|---|
# | `joint` | future and action are denoised together, the action sees the future | Fast-WAM-Joint, arXiv 2603.16666 |
# | `idm` | first the future, then the action is read off it (*inverse dynamics model*) | Fast-WAM-IDM, arXiv 2603.16666 |
# | `single_pass` | the present passes the video network once, only the action is denoised | Fast-WAM, arXiv 2603.16666 |
# | `image_edit` | the same, from an image editor: the future is one edited image | ImageWAM, arXiv 2606.19531 |
#
# In the last two the future is a training task and nothing else. Do they act worse? Faster? What
# do they imagine?

# %%
"""Four paradigms, trained side by side on one task."""

from statistics import median
from time import perf_counter
from typing import Any

import matplotlib.pyplot as plt
import torch
from lesson import (
    cached_roles,
    count_weights,
    draw_attention_table,
    full_or_quick,
    roles_of,
    show_gif,
    side_by_side,
    to_images,
)
from toy_task import SPEC, demonstrations, learn

import wamkit
from wamkit.policy.cost import cost

STEPS = full_or_quick(1000, 3)  # of training, for each paradigm
PARADIGMS = ("joint", "idm", "single_pass", "image_edit")


def build(paradigm: str) -> wamkit.Policy:
    """The same parts but for the paradigm. The last layer predicts frames (`predicts`, see below)."""
    spec: dict[str, Any] = {**SPEC, "paradigm": {"name": paradigm}}
    spec["backbone"] = {**SPEC["backbone"], "head_dim": 24, "predicts": "data"}
    return wamkit.build(spec)


# %% [markdown]
# ## Tables, programs and caches
#
# Everything that follows from a paradigm can be known without training. The **attention table**
# says which tokens each token may read, by role: `context` (the image now), `target` (the image
# to come), `state`, `action`; `target'` is a copy of the finished target. The **program** is what
# one call of `policy.act` runs; a *pass* is one run of the network over the roles that are named.
# Roles that read nothing which changes (their names are bold) pass the network once; their keys and values
# are the **KV cache**, as in a language model.

# %%
policies = {name: build(name) for name in PARADIGMS}
figure, axes = plt.subplots(1, 4, figsize=(12, 3))
for axis, (name, policy) in zip(axes, policies.items(), strict=True):
    draw_attention_table(axis, policy.spec, name)
plt.tight_layout()
plt.show()

for name, policy in policies.items():
    spec, traits = policy.spec, policy.spec.backbone.traits
    kept = cached_roles(spec)
    tokens = sum(roles_of(spec)[role] for role in kept)
    size = 2 * 4 * traits.depth * tokens * traits.num_kv_heads * traits.head_dim  # float32 bytes
    print(f"{name}: cache of {', '.join(kept)}: {tokens} tokens, {size / 1000:.0f} kB")
    for stage in spec.paradigm.program(spec):
        print(f"    {stage.passes} x ({', '.join(stage.roles)}): {stage.does}")

# %% [markdown]
# In `joint` and `idm` the target reads the present only, so that the present is cached there,
# too. `idm` also caches the finished future, as `target'`: the action's steps then cost what they
# cost in `single_pass`.
#
# `single_pass` and `image_edit` have the same table and the same program. They differ in what
# they imagine, any number of frames or exactly one, and with published weights in what the
# backbone has learned before: from videos, or from pairs of images and editing instructions.
# Here, with one future image and no pretraining, they are twins, and the table below should say
# so.
#
# ## Trained side by side


# %%
def milliseconds(policy: wamkit.Policy, seen: wamkit.Observation) -> float:
    """Median time of a chunk for one observation, after one that is not counted."""
    took = []
    for _ in range(full_or_quick(10, 2)):
        begin = perf_counter()
        policy.act(seen, seed=0)
        took.append(1000 * (perf_counter() - begin))
    return median(took[1:])


practice = demonstrations(full_or_quick(4096, 64), seed=0)
test = demonstrations(full_or_quick(256, 8), seed=1)
one = demonstrations(1, seed=2).observation()
print(f"a dot that stays: error {test.errors(torch.zeros_like(test.actions)).mean():.3f}\n")
print("paradigm        error   95 % ±   ms a chunk   passes   MFLOP   weights")
for name, policy in policies.items():
    for _ in learn(policy, practice, STEPS):
        pass
    errors = test.errors(policy.act(test.observation(), seed=0).values)  # [256]
    half = 1.96 * errors.std() / len(errors) ** 0.5
    needs = cost(policy.spec)
    row = f"{name:12} {errors.mean():8.4f} {half:8.4f} {milliseconds(policy, one):12.1f}"
    print(
        f"{row} {needs.passes:8} {needs.operations / 1e6:7.1f} {count_weights(policy):9,}",
        flush=True,
    )

# %% [markdown]
# How to read the table:
#
# - The intervals are over test tasks, for one training run each. Another seed of training can
#   move an error by more than these intervals: a difference between two rows is a hint, and
#   notebook 6 shows how to test it.
# - Passes and operations (MFLOP, a multiplication and an addition are two) are exact. `joint` and
#   `idm` pay for the future at every chunk. In a policy of real size the future has hundreds or
#   thousands of tokens and actions have a few dozen, so that the gap is far larger; here both
#   have about ten.
# - In the recorded run `single_pass` is as good as `joint`, for about a quarter of the
#   operations: this is the point of Fast-WAM. `image_edit` repeats its row to the last digit, as
#   announced.
# - Milliseconds depend on the machine; in so small a network they count Python more than
#   arithmetic.
#
# ## What they imagine
#
# `policy.imagine` denoises the future, also where acting does not need it. Columns are test
# tasks; the first two rows are true. A small network that predicts velocities would imagine
# mostly noise, since its tokens are narrower than a patch (96 values for 192). With
# `predicts = "data"` the last layer predicts the frame itself, which lies on few dimensions
# ("Back to Basics", arXiv 2511.13720).

# %%
SAMPLES = 8
came = to_images(test.images.permute(0, 2, 1, 3, 4) / 127.5 - 1)  # [256, 2, 24, 24, 3]
imagined = {
    name: to_images(policy.imagine(test.observation(), seed=0).canvas)
    for name, policy in policies.items()
}
strips = {"now": came[:, 0], "what came": came[:, 1]}
strips |= {name: images[:, 1] for name, images in imagined.items()}
figure, axes = plt.subplots(len(strips), 1, figsize=(8, 6.4))
for axis, (name, images) in zip(axes, strips.items(), strict=True):
    axis.imshow(torch.cat(list(images[:SAMPLES]), 1))
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.set(xticks=[], yticks=[])
plt.tight_layout()
plt.show()

copied = (came[:, 1] / 1.0 - came[:, 0]).square().mean()
for name, images in imagined.items():
    off = (came[:, 1] / 1.0 - images[:, 1]).square().mean() / copied
    print(
        f"{name:12} squared error of the imagined image: {off:.2f} of that of a copy of the present"
    )

# %% [markdown]
# All four begin with the same noise, so that their mistakes resemble each other. The same as
# animations, one for each paradigm in the order of the table: what came above, what was imagined
# below; first the present, then the future.

# %%
for images in imagined.values():
    show_gif(side_by_side(came, images, 5), milliseconds=700)

# %% [markdown]
# ## Exercises
#
# 1. `idm` runs twice as many passes as `joint`, but only about 5 % more operations. Why?
#
# <details><summary>Answer</summary>
#
# Its passes are narrower. In `joint` each of 8 passes holds future and action; in `idm` 8 hold
# the future, 8 hold the action, and one more passes the finished future for its keys. That one is
# the difference. In return `idm` may stop imagining early (exercise 3), and `joint` cannot.
# </details>
#
# 2. Let future and action read each other: `{"name": "joint", "attends": "mutual"}`. What changes
#    in table and cache? And with `"full"`?
#
# <details><summary>Answer</summary>
#
# Under `mutual` the target's row also holds `action`; what is cached stays, since the present
# reads neither. Under `full` (Efficient-WAM, arXiv 2606.10040) the present reads what is noisy,
# changes at every step, and nothing can be cached.
# </details>
#
# 3. Let `idm` act with less imagination: compare the errors for `stop_sigma` 0, 0.5 and 1.
#
# <details><summary>Answer</summary>
#
# `policies["idm"].act(test.observation(), seed=0, stop_sigma=0.5)`. At 1 the action sees keys of
# a future of pure noise. Training shows the action noisy futures in half of the samples
# (`context_noise_prob`), so all three are prepared for (mimic-video, arXiv 2512.15692, calls the
# level $\tau$).
# </details>
