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
# # 6 Does imagination help?
#
# In `single_pass` (Fast-WAM, arXiv 2603.16666) the future is imagined in training only: **video
# co-training**, one more loss on the same network. Does it make the actions better? The paper
# answers for its robots. Here you learn how to ask: one training with and one without say
# nothing, because first weights, demonstrations and noise change the result as well.

# %%
"""Does imagination help? With and without video loss, over seeds."""

from statistics import stdev

import matplotlib.pyplot as plt
from lesson import STUDENT_T, confidence_interval, full_or_quick
from toy_task import SPEC, demonstrations, learn

import wamkit
from wamkit.files.plots import scale_logarithmically

STEPS = full_or_quick(250, 3)  # of training
SEEDS = full_or_quick(5, 2)  # 2 to 10
DEMONSTRATIONS = full_or_quick(256, 32)  # few, so that there is room to differ
READER = {"name": "reader", "num_heads": 4, "head_dim": 12, "mlp_dim": 192}  # learns this fast
test = demonstrations(full_or_quick(512, 8), seed=1_000_000)


def train(seed: int, *, video: bool) -> float:
    """The error of a policy that learned with or without the video loss."""
    paradigm = {"name": "single_pass", "co_training": video}
    spec = {**SPEC, "seed": seed, "paradigm": paradigm, "action_head": READER}
    policy = wamkit.build(spec)
    for _ in learn(policy, demonstrations(DEMONSTRATIONS, seed=seed), STEPS, seed=seed):
        pass
    return float(test.errors(policy.act(test.observation(), seed=0).values).mean())


# %% [markdown]
# ## A paired experiment
#
# Both trainings of a **pair** have the same seed: the same first weights, demonstrations and
# batches, one with the video loss, one without. What counts is the difference within a pair.
# Everything that a seed changes for both alike drops out of it.

# %%
alone, with_video = [], []
for seed in range(SEEDS):
    alone.append(train(seed, video=False))
    with_video.append(train(seed, video=True))
    print(f"seed {seed}: alone {alone[-1]:.4f}, with video {with_video[-1]:.4f}", flush=True)
differences = [b - a for a, b in zip(alone, with_video, strict=True)]

# %% [markdown]
# ## Reading the result
#
# From $n$ differences with mean $\bar d$ and standard deviation $s$, the 95 % **confidence
# interval** of the true difference is $\bar d \pm t_{n-1}\,s/\sqrt n$ (Student 1908): of many
# such experiments, 95 % give an interval that contains it. If it contains 0, these runs do not
# show a difference. That is not the same as showing that there is none.

# %%
middle, half = confidence_interval(differences)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
for a, b in zip(alone, with_video, strict=True):
    axes[0].plot((0, 1), (a, b), "o-", color="tab:blue")
axes[0].set_xticks((0, 1), ("actions alone", "with video"))
axes[0].set(ylabel="error, in fields", xlim=(-0.3, 1.3), title="pairs")
axes[1].axhline(0, color="gray", ls=":")
axes[1].plot([0] * SEEDS, differences, "o", color="tab:blue", alpha=0.5)
axes[1].errorbar([0.3], [middle], [half], fmt="s", color="tab:orange", capsize=6)
axes[1].set(xlim=(-0.4, 0.7), xticks=[], title="differences, mean, 95 %")
counts = range(2, 11)
widths = [STUDENT_T[n - 2] * stdev(differences) / n**0.5 for n in counts]
axes[2].plot(counts, widths, "o-", color="tab:orange")
axes[2].axhline(abs(middle), color="gray", ls=":")
axes[2].set(xlabel="number of seeds", title="half interval; dotted: the mean")
scale_logarithmically(axes[2])
plt.tight_layout()
plt.show()

print(f"with video minus alone: {middle:+.4f} ± {half:.4f} ({SEEDS} seeds)")
if abs(middle) <= half:
    print("The interval contains 0: these runs do not show that video helps, or that it hurts.")
else:
    word = "smaller" if middle < 0 else "larger"
    print(f"The interval leaves out 0: in this setting the error with video is {word}.")

# %% [markdown]
# The right panel says what more seeds would buy, if their differences scatter like these: where
# the curve is below the dotted line, a mean like this one would be distinguished from 0. In the
# recorded run even ten seeds would not do: the difference, if there is one, is small against what
# a seed changes.
#
# Whatever the last line printed says, it is about this toy: this network, so many demonstrations,
# so many steps. The same number of steps is not the same work, either: co-training passes the
# future through the network as well. Whether co-training helps a robot has to be asked with the
# robot, and `benchmarks/video_helps.py` asks it of any recorded data set.
#
# ## Exercises
#
# 1. Treat the two columns as unpaired, that is, compare two means with a standard deviation each.
#    How does the interval change?
#
# <details><summary>Answer</summary>
#
# Its half width is about $t\,\sqrt{(s_a^2+s_b^2)/n}$. It is larger where a seed that is bad alone
# is also bad with video (the lines of the left panel then run side by side), and no better where
# they are unrelated. Compute it: `(stdev(alone)**2 + stdev(with_video)**2) ** 0.5`, against
# `stdev(differences)`.
# </details>
#
# 2. You try 20 settings, and one of them has an interval that leaves out 0. What do you report?
#
# <details><summary>Answer</summary>
#
# All 20. With 95 % intervals one of 20 is expected to leave out 0 by chance. Repeat that setting
# with new seeds, which played no part in the choice.
# </details>
#
# 3. Where would you expect imagination to help more: with 64 or with 4096 demonstrations? Try it.
#
# <details><summary>Answer</summary>
#
# The video loss can teach what images look like and how they change, which many demonstrations
# teach anyway, so the usual expectation is: with few. On the other hand, two losses share one
# small network and a fixed number of steps. Set `DEMONSTRATIONS`, and let the interval decide.
# </details>
