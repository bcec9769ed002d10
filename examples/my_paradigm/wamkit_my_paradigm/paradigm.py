"""A paradigm of your own, the part that runs: one loop to act, one line to learn."""

from wamkit.interfaces.paradigm import Paradigm, corrupt, denoise, remember, start
from wamkit.types import Outcome


class GlanceParadigm(Paradigm):
    """Denoises the action beside a future that stays noise; learns both at levels of their own."""

    def __init__(self, sees):
        self.sees = sees

    def act(self, model, scene, schedules, rng, **choices):
        """Noise to normalized actions [B, N, A]."""
        if "video" in scene.parts:
            scene = scene.put("video", start("video", scene, schedules, rng).x, 1.0)
        everything = ("text", "context", "state", "target")
        cache, rest = remember(model, scene, self.sees, everything)
        runs = {"action": start("action", scene, schedules, rng)}
        return Outcome(denoise(model, rest, runs, cache).take("action"))

    def corrupt(self, scene, schedules, rng):
        """A noisy scene, and what to predict for it."""
        return corrupt(scene, schedules, rng)
