"""The image-edit paradigm: learn to imagine one frame, the endpoint, and act from the prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Conflict, ParadigmConfig, Part, Stage
from wamkit.config.visibility import Visibility

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1


class ImageEdit(ParadigmConfig):
    """One future frame is learned as an edit of the present; acting makes no edit.

    ImageWAM (arXiv 2606.19531). The action sees text and reference frames, never the edited one,
    so in use one pass over the prefix is kept, and only the action is denoised.
    """

    source = "https://github.com/yuyangalin/ImageWAM"

    name: Literal["image_edit"] = "image_edit"
    prefix_level: float = Field(0.0, ge=0, le=1)
    """Noise level given for the clean reference frames at inference; published: 0."""
    training_level: Literal["same", "target"] = "same"
    """Their level in training: the same, or the level of the edited frame, as ImageWAM has
    it for backbones with one level a pass: then training and use differ. The level of the text is
    the backbone's matter (`backbone.text_sigma`)."""

    @property
    def sees(self) -> Visibility:
        prefix = frozenset({"text", "context"})
        return {
            "text": prefix,
            "context": prefix,
            "state": prefix | {"state"},
            "target": prefix | {"state", "target"},
            "action": prefix | {"state", "action"},
        }

    @property
    def max_target_frames(self) -> int:
        return 1

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from super().conflicts(spec)
        moments = spec.latent_frames[1] // spec.cameras.apart
        if spec.backbone.traits.imagines and moments != 1:
            yield Conflict(
                between=("paradigm", "video.num_frames"),
                why=f"image_edit imagines one latent frame, the endpoint; {spec.video.num_frames} "
                f"images make {moments}",
                hint=f"set video.num_frames = {spec.video.num_observed + spec.time_stride}, and "
                "video.frame_stride to when that image is",
            )
        if not spec.latent_frames[1] and self.training_level == "target":
            yield Conflict(
                between=("paradigm.training_level", "video.num_frames"),
                why="the reference frames are to be told the level of the edited frame, and "
                "there is none",
                hint='set paradigm.training_level = "same"',
            )

    def program(self, spec: PolicySpec) -> tuple[Stage, ...]:
        steps = 1 if spec.action_head.is_regression else spec.schedules.action.evaluations
        observed = ("text", "context", *(("state",) if spec.state.size else ()))
        return (
            Stage(roles=observed, passes=1, does="prefill text and reference frames"),
            Stage(roles=("action",), passes=steps, does="denoise the action against the kept keys"),
        )

    def build(self) -> Any:
        from .paradigm import ImageEditParadigm

        return ImageEditParadigm(self)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(ImageEdit)
