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
# # 7 Your own paradigm in twenty lines
#
# A paradigm is a table (who attends to whom) and a loop (what happens in one call of
# `policy.act`). It names roles and no backbone, so yours runs with every backbone and every
# action head that fit.
#
# The idea here: a generative policy gives another answer for every seed, and some are poor.
# Denoise several chunks from different noise and let them **vote**: take the one that is closest
# to the others. The task is `toy_task` with `arcs=True`: the dot may go around either side of the
# straight line, so there are two right ways.

# %%
"""Your own paradigm in twenty lines: chunks that vote."""

from types import SimpleNamespace
from typing import Any, Literal

import matplotlib.pyplot as plt
import torch
from lesson import draw_attention_table, full_or_quick
from toy_task import SPEC, STEPS, demonstrations, learn
from wamkit_single_pass import SinglePass
from wamkit_single_pass.paradigm import SinglePassParadigm

import wamkit
from wamkit.interfaces.paradigm import denoise, init_sampler, prefill
from wamkit.interfaces.types import ModelInputs, ParadigmOutput

TRAINING = full_or_quick(600, 3)  # steps
READER = {"name": "reader", "num_heads": 4, "head_dim": 12, "mlp_dim": 192}

# %% [markdown]
# ## Twenty lines
#
# A paradigm has two classes. The configuration says, without importing any network, what the
# paradigm is: its name in a spec, its settings, its table (`sees`), and its program (for
# `wamkit explain` and for cost estimates). The other class is the loop: `act`, and `add_noise` for
# training. The pieces of a loop are functions: `prefill` passes what is known through the network
# once and gives its keys and values (the KV cache), `init_sampler` draws noise, and `denoise` runs
# all steps of a sampler.
#
# Whoever changes one thing inherits the others. Voting changes what happens in a call, so `Vote`
# takes the table and the training of `single_pass`: text and observed frames attend to each other,
# the state to both and itself; the action and the future each attend to these three and to
# themselves, and the future is learned with the action. (A paradigm from nothing derives from
# `ParadigmConfig` and `Paradigm` and writes `sees` and `add_noise` too; `examples/my_paradigm`
# does.)


# %%
class Vote(SinglePass):
    """Several chunks are denoised, and the one that is closest to the others is executed."""

    name: Literal["vote"] = "vote"  # type: ignore[assignment]
    votes: int = 8
    near: int = 2
    """How many of the other votes, the closest ones, a vote is compared with."""

    def program(self, spec: Any) -> Any:
        """One pass over the present, then all steps of every vote."""
        observe, act = super().program(spec)
        return observe, act.model_copy(update={"passes": self.votes * act.passes})

    def build(self) -> Any:
        """The loop."""
        return VoteParadigm(self)


class VoteParadigm(SinglePassParadigm):
    """The loop of `Vote`."""

    config: Vote

    def act(self, model: Any, inputs: ModelInputs, schedules: Any, rng: Any, **options: Any) -> Any:
        """Denoise every vote against the same cache, and take the closest to the others."""
        cache, rest = prefill(model, inputs.without("video"), self.sees)
        starts = [init_sampler("action", rest, schedules, rng) for _ in range(self.config.votes)]
        votes = [denoise(model, rest, {"action": x}, cache).take("action") for x in starts]
        chunks = torch.stack(votes)  # [V, B, N, A]
        apart = (chunks[:, None] - chunks).flatten(3).norm(dim=-1)  # [V, V, B]
        far = apart.sort(1).values[:, : 1 + self.config.near].sum(1)  # its own distance is 0
        return ParadigmOutput(chunks[far.argmin(0), torch.arange(chunks.shape[1])])


@wamkit.hookimpl
def register(add: Any) -> None:
    """An installed plugin has this behind its entry point; here the notebook is the plugin."""
    add(Vote)


wamkit.registry().plug(SimpleNamespace(register=register), "vote", "this notebook")

# %% [markdown]
# ## It fits
#
# From here on `vote` is a paradigm like any other. The table is drawn as in notebook 4 (bold:
# once a chunk, the others at every step), and it fits every head and every backbone of the small
# parts:

# %%
policy = wamkit.build({**SPEC, "paradigm": {"name": "vote"}, "action_head": READER})
figure, axis = plt.subplots(figsize=(3, 3))
draw_attention_table(axis, policy.spec, "vote")
plt.tight_layout()
plt.show()
for head in ("mot", "shared_stream", "latent_slot", "reader", "regression"):
    found = wamkit.check({**SPEC, "paradigm": {"name": "vote"}, "action_head": {"name": head}})
    print(f"{head:14}", "fits" if not found else found[0])

# %% [markdown]
# (A `regression` head has no noise, so all of its votes are the same: it fits and gains nothing.)
#
# ## Does it help?
#
# One policy is trained, and acts with 1, 4 and 16 votes. A vote is compared with all others, or
# with the closest quarter of them (`near = 1` of 4 votes, `near = 4` of 16). For comparison, the
# *mean* of 16 chunks: with two right ways it may lead between them.

# %%
practice = demonstrations(full_or_quick(4096, 64), seed=0, arcs=True)
test = demonstrations(full_or_quick(256, 8), seed=1, arcs=True)
for _ in learn(policy, practice, TRAINING):
    pass


def act(votes: int, near: int = 0, seed: int = 0) -> torch.Tensor:
    """Chunks [B, 8, 2] with so many votes."""
    policy.paradigm = Vote(votes=votes, near=near).build()
    return policy.act(test.observation(), seed=seed).values


most = full_or_quick(16, 3)
results = {"one chunk": act(1)}
for votes in full_or_quick((4, 16), (3,)):
    results[f"{votes} votes, all others"] = act(votes, near=votes - 1)
    results[f"{votes} votes, a quarter"] = act(votes, near=max(1, votes // 4))
every = torch.stack([act(1, seed=seed) for seed in range(most)])  # [16, B, 8, 2]
results[f"mean of {most} chunks"] = every.mean(0)
print(f"{'':22} error   95 % ±")
for name, values in results.items():
    errors = test.errors(values)
    half = 1.96 * errors.std() / len(errors) ** 0.5
    print(f"{name:22} {errors.mean():.4f} {half:8.4f}")


def ways(actions: torch.Tensor) -> torch.Tensor:
    """Where the dot goes: [..., 9, 2] from actions [..., 8, 2]."""
    start = test.ways[:, 0, :1].expand_as(actions[..., :1, :])
    return start + torch.cat([0 * actions[..., :1, :], actions.cumsum(-2)], -2) / STEPS


figure, axes = plt.subplots(1, 5, figsize=(12, 2.6))
for i, axis in enumerate(axes):
    for way in ways(every)[:, i]:
        axis.plot(*way.T, color="tab:blue", linewidth=0.6)
    axis.plot(*ways(every.mean(0))[i].T, color="gray", ls="--", label="mean")
    for near, color in (("all others", "tab:orange"), ("a quarter", "tab:green")):
        way = ways(results[f"{most} votes, {near}"])[i]
        axis.plot(*way.T, color=color, linewidth=2, label=f"vote, {near}")
    axis.plot(*test.ways[i, 0, -1], "x", color="tab:red")
    axis.set(xlim=(-0.2, 1.2), ylim=(1.2, -0.2), xticks=[], yticks=[], aspect="equal")
axes[0].legend(fontsize=7)
plt.tight_layout()
plt.show()

# %% [markdown]
# Blue are 16 chunks of one vote each; the cross is the target. In the recorded run:
#
# - The **mean** of 16 chunks is far worse than a single one: where chunks go around both sides it
#   cuts through the middle. Averaging is what a regression of the same actions would learn to do.
# - Compared with all others, more votes make it *worse*. The chunk that is closest to **all**
#   others lies at the inner edge of its group, pulled toward the other group.
# - With the closest quarter a chunk is compared with its own group, and 16 votes lower the error
#   by a third.
#
# So twenty lines were enough to have an idea, to see it fail, to see why, and to repair it.
#
# To publish a paradigm, `wamkit new paradigm NAME` writes a project with the entry point and a
# test file whose two lines run wamkit's contract tests; `examples/my_paradigm` is such a project.
#
# ## Exercises
#
# 1. Let the action see the future: give `Vote` a table `sees` with `"target"` in the row of the
#    action. Which line of `act` has to change, and which published system comes out?
#
# <details><summary>Answer</summary>
#
# `inputs.without("video")` takes the future away, so the new cell of the table would stay empty
# when the robot acts, but not in training. Denoise the video first, or with the action: that is
# `idm` or `joint` (notebook 4). `examples/my_paradigm` shows a third way: one look at a future of
# pure noise.
# </details>
#
# 2. What do 16 votes cost in a real policy, and how would you make them cheaper?
#
# <details><summary>Answer</summary>
#
# The prefill is paid once; each vote costs its denoising steps, over the action tokens only. On a
# GPU, put the votes into the batch: the small passes then run side by side. The paradigm
# **`adaptive`** does so with its proposals: it draws a few cheap chunks, and imagines the future
# only where they disagree (`examples/adaptive_wam.toml`).
# </details>
#
# 3. With two votes the result equals that of one chunk. Why?
#
# <details><summary>Answer</summary>
#
# Both chunks are equally far from each other; `argmin` takes the first, which is the chunk of the
# same seed with one vote. A vote begins to say something at three.
# </details>
