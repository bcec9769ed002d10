"""A policy in the same process, asked as a server is: the same keys, replies and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..policy.moments import expect_episode
from ..policy.policy import Policy
from .protocol import RequestHandler


class LocalPolicy:
    """A policy of this process with the interface of `wamkit.serve.client.Client`.

    policy = LocalPolicy(wamkit.build("examples/toy.toml"))
    policy.infer({"observation/front": image, "prompt": "pick up the cup"})["actions"]
    """

    def __init__(
        self, policy: Policy, name: str = "", renamed: Mapping[str, str] | None = None
    ) -> None:
        self.policy = policy
        self._handler = RequestHandler(policy, name or policy.spec.backbone.name, renamed or {})
        self._session = policy.session()
        self._anew, self._episode = False, 0
        self.metadata = self._handler.metadata()

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to an observation. Raises WamkitError as a client does."""
        anew, episode = {"reset": True} if self._anew else {}, self._episode
        reply = self._handler.answer(self._session, {**observation, **anew})
        expect_episode(episode, self._episode, "policy")
        self._anew = False
        return reply

    def reset(self) -> None:
        """Begin a new episode with the next observation; from any thread."""
        self._anew = True
        self._episode += 1

    def close(self) -> None:
        """Do nothing: the policy belongs to this process."""
