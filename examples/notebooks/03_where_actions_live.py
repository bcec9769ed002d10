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
# # 3 Where actions live
#
# A video model denoises frames. A robot needs a **chunk** of actions: here 8 velocities, one
# second. The part that adds them is the **action head**. The field has four answers to where
# action tokens live, and wamkit has a head for each:
#
# | head | where | published in |
# |---|---|---|
# | `latent_slot` | in **latent slots**: frames of the video itself, filled with actions | Cosmos Policy, arXiv 2601.16163 |
# | `shared_stream` | in the video's **stream** (its sequence of tokens), through the same blocks | DreamZero, arXiv 2602.15922 |
# | `mot` | in an **expert**: a second, narrower stack of blocks that attends together with the video (*Mixture-of-Transformers*, arXiv 2411.04996) | Fast-WAM, arXiv 2603.16666 |
# | `reader` | in a network of their own that **reads** hidden states of the video by cross-attention | GE-Act, arXiv 2508.05635 |

# %%
"""Where actions live: slots, the shared stream, an expert, a reader."""

from time import perf_counter
from typing import Any

import matplotlib.pyplot as plt
import torch
from lesson import BLUE, GREEN, ORANGE, count_weights, draw_token_table, full_or_quick
from toy_task import SPEC, demonstrations, learn

import wamkit
from wamkit.config.spec import parse

STEPS = full_or_quick(800, 3)  # of training, for each head
HEADS: dict[str, dict[str, Any]] = {
    "latent_slot": {},
    "shared_stream": {},
    "mot": {"width": 48, "mlp_dim": 192, "state": "token"},
    "reader": {"num_heads": 4, "head_dim": 12, "mlp_dim": 192},
}
specs = {
    name: {**SPEC, "paradigm": {"name": "joint"}, "action_head": {"name": name, **settings}}
    for name, settings in HEADS.items()
}
for name, spec in specs.items():
    counts = parse(spec).fitted().tokens()
    print(f"{name:14}", ", ".join(f"{role} {count}" for role, count in counts.items() if count))

# %% [markdown]
# Tokens have **roles**: `context` (observed frames), `target` (future frames), `state` (what the
# robot measures of itself), `action`. Slots are as large as frames: one holds all 16 values of
# the chunk, and costs as many tokens as a frame (9). The three others spend one token on each
# action. The 13 text tokens are read by cross-attention, and are in none of the tables below.
#
# ## Who attends to whom
#
# In self-attention a **mask** says which tokens a token may read. wamkit writes it by role: the
# **attention table**. Filled means: the row's tokens attend to the column's. Here the table is
# that of the *paradigm* `joint`, in which the action sees the future frames while both are
# denoised (notebook 4). The head does not change the table. It changes whose weights compute
# queries, keys and values of the action: blue are those of the video backbone, orange those of an
# expert, and green a network outside of the backbone.

# %%
PLACES = {"latent_slot": BLUE, "shared_stream": BLUE, "mot": ORANGE, "reader": GREEN}
figure, axes = plt.subplots(1, 4, figsize=(13, 3.6))
for axis, (name, spec) in zip(axes, specs.items(), strict=True):
    draw_token_table(axis, parse(spec).fitted(), name, PLACES[name])
plt.tight_layout()
plt.show()

# %% [markdown]
# What the colors mean for the engine:
#
# - A block is opened in two: `pre_attention` gives queries, keys, values; `post_attention` takes
#   what attention returns (`examples/01_one_block.py` does it by hand). With `mot`, orange rows
#   and blue rows come from different blocks and meet in one softmax, so the number and size of
#   attention heads must agree; the width need not.
# - The green rows of `reader` are cross-attention to outputs of layers. Frames cannot read
#   anything of the reader: hence its empty cell at row `target`, column `state`, and hence every
#   paradigm in which frames would read the action is refused.
#
# A refusal comes before any weight is loaded, with a reason and what to change:

# %%
mutual = {**specs["reader"], "paradigm": {"name": "joint", "attends": "mutual"}}
for conflict in wamkit.check(mutual):
    print(conflict)

# %% [markdown]
# ## Measured
#
# The same task, steps and noise for each head. The error is the mean distance from the right way,
# in units of the field's side (a dot that does not move is off by the value in the first line).


# %%
def milliseconds(policy: wamkit.Policy, seen: wamkit.Observation) -> float:
    """The fastest of five chunks, after one that is not counted."""
    took = []
    for _ in range(6):
        begin = perf_counter()
        policy.act(seen, seed=0)
        took.append(1000 * (perf_counter() - begin))
    return min(took[1:])


practice = demonstrations(full_or_quick(4096, 64), seed=0)
test = demonstrations(full_or_quick(256, 8), seed=1)
one = demonstrations(1, seed=2).observation()
print(f"a dot that stays: error {test.errors(torch.zeros_like(test.actions)).mean():.3f}")
print(f"{'head':14} {'its weights':>11} {'action tokens':>13} {'error':>7} {'ms a chunk':>10}")
for name, spec in specs.items():
    policy = wamkit.build(spec)
    for _ in learn(policy, practice, STEPS):
        pass
    error = test.errors(policy.act(test.observation(), seed=0).values).mean()
    weights, tokens = count_weights(policy.action_head), policy.spec.tokens()["action"]
    row = f"{name:14} {weights:11,} {tokens:13} {error:7.3f} {milliseconds(policy, one):10.1f}"
    print(row, flush=True)

# %% [markdown]
# In the recorded run three heads learn the task and `latent_slot` hardly does. It is the head
# without a network of its own: all it can use is what the backbone knows. Cosmos Policy starts
# from a pretrained video model; here the backbone starts from random weights, and 800 steps are
# too few. The order of the other three is that of one seed and one task. What does not depend on
# the seed: an expert or a reader brings almost as many weights as the backbone has (129,696), the
# shared stream a tenth of that, and slots nearly none. Milliseconds are of this machine, and in
# networks so small they count layers more than arithmetic.
#
# ## Exercises
#
# 1. A policy has chunks of 32 actions with 14 values (two arms), and frames of 14 x 28 latent
#    pixels with 48 channels, in patches of 2 x 2. How many tokens does a chunk cost as a latent
#    slot, and how many with an expert?
#
# <details><summary>Answer</summary>
#
# One slot holds 14 * 28 * 48 = 18,816 values, enough for 448, and costs as many tokens as a
# frame: 7 * 14 = 98. The expert has 32 tokens, of smaller width. The slot pays in tokens for
# keeping the architecture as it is.
# </details>
#
# 2. Why is `latent_slot` alone in having hardly any weights of its own? What is it that has to
#    learn to write actions?
#
# <details><summary>Answer</summary>
#
# The backbone does it all: actions are tiled over a latent frame, denoised like an image, and
# averaged when they are read. Its few weights are those of a learned blank frame. A pretrained
# backbone brings its knowledge along for the actions; a frozen one could not learn them.
# </details>
#
# 3. Change the paradigm of all four to `single_pass` and draw the tables again. What becomes of
#    the reader's rows?
#
# <details><summary>Answer</summary>
#
# Column `target` of row `action` is empty in all four. The reader then reads hidden states of the
# observed frame alone, which pass the backbone once, whatever the number of denoising steps.
# </details>
