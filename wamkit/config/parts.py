"""The classes that plugins subclass: a configuration for each kind of part, traits and conflicts.

Nothing here imports torch. A part is data about a thing (a name, a variant, some sizes); its
`build` imports the thing. Rules about what fits what live with the part that knows them, in
`conflicts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, model_validator

from ..errors import Caution as Caution
from ..errors import Conflict as Conflict
from ..errors import Finding as Finding
from ..files.hub import HUB as HUB
from .kinds import ALL_KINDS as ALL_KINDS
from .kinds import KINDS as KINDS
from .kinds import Kind as Kind
from .kinds import Stage as Stage
from .part import Part as Part
from .part import Weighted as Weighted
from .published import open_fields
from .resizing import expect_resizable as expect_resizable
from .sample_shape import SampleShape
from .traits import TrainedWith as TrainedWith
from .traits import Traits as Traits
from .visibility import Visibility

if TYPE_CHECKING:
    from .spec import PolicySpec


class BackboneConfig(Weighted):
    """A video or image-editing diffusion transformer."""

    kind: ClassVar[Kind] = "backbone"
    config_folders: ClassVar[tuple[str, ...]] = ("transformer",)

    @property
    def traits(self) -> Traits:
        """Facts about the network without its weights: sizes and abilities."""
        raise NotImplementedError(f"{type(self).__name__} must state its traits")

    def expert(self, width: int, mlp_dim: int) -> Any:
        """A narrower copy of the stack, for an action expert that shares its attention.

        A module with `blocks`, as many as the backbone's, and `place` as in
        `wamkit.interfaces.VideoBackbone`; heads and head size are the backbone's, tokens have
        `width` channels. Only where `traits.experts`.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no narrower copy of its blocks")

    def level_embedder(self) -> Any:
        """An embedder of noise levels like the backbone's, with weights of its own.

        A module with `embed_sigma` as in `wamkit.interfaces.Stack`, whose weights have the names
        that they have in the backbone. Only where `traits.level_embedder`.
        """
        raise NotImplementedError(f"{type(self).__name__} makes no second embedder of levels")

    def resized(self, layers: Sequence[int], num_heads: int, mlp_dim: int) -> BackboneConfig:
        """The same architecture with only these blocks, this number of heads and this feed-forward.

        The head size stays, so the width becomes num_heads * head_dim; the key heads keep their
        ratio. `layers` are places in the present stack, ascending. Only where `traits.mlp_dim`.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be resized")

    def conditioner(self) -> Any:
        """Return the own `wamkit.interfaces.Conditioner`, where `cond_embeds_width` > 0."""
        raise NotImplementedError(f"{type(self).__name__} has no conditioner")

    def build(self) -> Any:
        """Return a `wamkit.interfaces.VideoBackbone`."""
        raise NotImplementedError(f"{type(self).__name__} must build a backbone")


def variant_size(**limits: Any) -> Any:
    """A field that the variant sets unless the spec writes it."""
    return Field(None, **limits)


class VariantBackbone(BackboneConfig):
    """A family with published sizes: the variant sets every one that the spec leaves out."""

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]]
    """variant -> the fields it sets."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        written = {key: value for key, value in given.items() if value is not None}
        fields = dict(open_fields(cls, written))
        if "variant" in written:  # it must be that of the folder: `wamkit.config.configs`
            return {**fields, **cls.sizes.get(written["variant"], {}), **written}
        variant = fields.pop("variant", None) or cls._variant_of(fields)
        return {"variant": variant, **cls.sizes.get(variant, {}), **fields, **written}

    @classmethod
    def _variant_of(cls, fields: Mapping[str, Any]) -> str:
        """The default, or else the first variant with these sizes, if there is one."""
        default = str(cls.model_fields["variant"].default)
        for variant in (default, *cls.sizes):
            sizes = cls.sizes.get(variant, {})
            if all(fields.get(key, size) == size for key, size in sizes.items()):
                return variant
        return default

    def resized(self, layers: Sequence[int], num_heads: int, mlp_dim: int) -> Self:
        """As that of every backbone, for one with the fields `layers`, `num_heads`, `mlp_dim`."""
        expect_resizable(self.traits, layers, num_heads, mlp_dim)
        sizes = {"layers": len(layers), "num_heads": num_heads, "mlp_dim": mlp_dim}
        return type(self).model_validate({**self.model_dump(), **sizes, "weights": None})


class VAEConfig(Weighted):
    """What turns images into latents and back."""

    kind: ClassVar[Kind] = "vae"
    config_folders: ClassVar[tuple[str, ...]] = ("vae",)
    streams: ClassVar[bool] = False
    """True if the VAE goes on with a clip where it stopped (`wamkit.interfaces.StreamingVAE`)."""

    adapter: Literal["none", "linear"] = "none"
    """`linear` learns projections from this VAE's channels to the backbone's, and back."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of its computation, independent of its file; latents are float32."""

    @property
    def channels(self) -> int:
        """Channels of a latent (C)."""
        raise NotImplementedError(f"{type(self).__name__} must state its channels")

    @property
    def stride(self) -> tuple[int, int, int]:
        """Images, rows and columns that make one latent; the first image is one by itself."""
        raise NotImplementedError(f"{type(self).__name__} must state its stride")

    @property
    def latent_space(self) -> str | None:
        """Name of its latent space, after the first VAE that makes such latents.

        VAEs of one space can stand in for each other. None: no backbone was trained on it.
        """
        return self.name

    def build(self) -> Any:
        """Return a `wamkit.interfaces.VAE` in `dtype`.

        Modules listed in `keep_float32` of the VAE stay in float32. In bfloat16, kernels of Conv2d
        are stored with channels last, which GPUs run faster; activations inherit that layout.
        """
        import torch

        from ..checkpoints.safetensors import cast

        vae = cast(self._build(), getattr(torch, self.dtype))
        if self.dtype == "bfloat16":
            for layer in vae.modules():
                if isinstance(layer, torch.nn.Conv2d):
                    kernel = layer.weight.data
                    layer.weight.data = kernel.contiguous(memory_format=torch.channels_last)
        return vae

    def _build(self) -> Any:
        """Return a `wamkit.interfaces.VAE` in any dtype; plugins implement it."""
        raise NotImplementedError(f"{type(self).__name__} must build a VAE in _build")


class PublishedVAE(VAEConfig):
    """A VAE of one published size, which a class states, and a narrow copy of it for tests."""

    latent: ClassVar[int]
    """Channels of a latent (C)."""
    strides: ClassVar[tuple[int, int, int]]
    """Images, rows and columns that make one latent."""

    width: Literal["published", "tiny"] = "published"
    """`tiny` is a few channels wide, for tests; only `published` reads the published files."""

    @property
    def channels(self) -> int:
        """Channels of a latent (C)."""
        return self.latent

    @property
    def stride(self) -> tuple[int, int, int]:
        """Frames, rows and columns that make one latent."""
        return self.strides

    def tiny(self) -> Self:
        """The same VAE a few channels wide, with random weights, for tests."""
        return self.model_copy(update={"width": "tiny", "weights": None})


class TextEncoderConfig(Weighted):
    """What turns an instruction into embeddings."""

    kind: ClassVar[Kind] = "text_encoder"
    external_weights: ClassVar[bool] = False
    """True if a saved policy names the encoder's own folder instead of copying its weights."""

    prompt_template: str = "{instruction}"
    """Text that is encoded; `{instruction}` is replaced by the instruction, `{lower_instruction}`
    by the same in lower case."""
    negative_prompt: str = ""
    """Prompt that classifier-free guidance steers away from; read only where a schedule has a
    `guidance_scale` other than 1."""
    adapter: Literal["none", "linear"] = "none"
    """`linear` learns a projection from this encoder's width to the backbone's."""
    embeddings_file: str | None = None
    """File written by `wamkit precompute text`; the encoder itself is then not loaded."""

    @property
    def width(self) -> int:
        """Width of an embedding."""
        raise NotImplementedError(f"{type(self).__name__} must state its width")

    @property
    def max_tokens(self) -> int:
        """The most tokens a prompt can take."""
        raise NotImplementedError(f"{type(self).__name__} must state its max_tokens")

    @property
    def embedding_space(self) -> str | None:
        """Name of its embedding space, as `VAEConfig.latent_space`; None if it is learned here."""
        return self.name

    def skeleton(self) -> Any:
        """Return a module with the tensors of the encoder, in their dtypes, for estimates.

        It is called on the meta device, and must need no files. Raises WamkitError if the size of
        the encoder is not known without them.
        """
        return self.model_copy(update={"weights": None}).build()

    def build(self) -> Any:
        """Return a `wamkit.interfaces.TextEncoder`."""
        raise NotImplementedError(f"{type(self).__name__} must build a text encoder")


class HeadContext(BaseModel):
    """Build context of an action head: the backbone's configuration and the sizes of vectors."""

    model_config = ConfigDict(frozen=True, defer_build=True, allow_inf_nan=False)

    backbone: SerializeAsAny[BackboneConfig]
    """The backbone's configuration, for heads that make blocks of its kind."""
    chunk: int
    """Actions in a chunk (N)."""
    action: int
    """Size of an action (A)."""
    state: int
    """Size of the robot's state (P); 0 for none."""
    latent: tuple[int, int, int]
    """Channels, height and width of a latent frame."""
    frames: tuple[int, int]
    """Latent frames that are observed, and that are imagined."""
    predicts: tuple[str, ...] = ("action",)
    """The vectors that are denoised: "action", and "next_state" and "value" if used."""

    @cached_property
    def traits(self) -> Traits:
        """Those of the backbone."""
        return self.backbone.traits

    def token_dim(self, part: str) -> int:
        """Values in a vector of a modality: "state", "action", "next_state" or "value"."""
        return {"action": self.action, "value": 1}.get(part, self.state)


class ActionHeadConfig(Weighted):
    """What turns a backbone into something that predicts actions."""

    kind: ClassVar[Kind] = "action_head"
    exposes_tokens: ClassVar[bool] = True
    """True if other tokens may attend to the head's tokens (shared attention, latent slots)."""
    uses_backbone_blocks: ClassVar[bool] = False
    """True if the head's tokens pass the backbone's own blocks."""
    is_regression: ClassVar[bool] = False
    """True if the head predicts the values in one pass, without noise."""
    token_per_action: ClassVar[bool] = True
    """True if every action has a token, and so a noise level, of its own."""

    @property
    def reads_text(self) -> bool:
        """True if the head attends to the prompt itself, besides the backbone."""
        return False

    @property
    def loss_horizon(self) -> int | None:
        """How many of a chunk's first actions the loss counts; None for all."""
        return None

    @property
    def leading_frames(self) -> int:
        """Frames, 0 or 1, that the inputs of this head begin with: the latent of a black image."""
        return 0

    def black_frames(self, sizes: HeadContext) -> tuple[int, int]:
        """Latent frames of black images in a clip of all views (`cameras.clip = "shared"`).

        Those before the observed frames, a leading frame included, and those between them and the
        imagined ones.
        """
        return self.leading_frames, 0

    def tokens(self, sizes: HeadContext) -> Mapping[str, int]:
        """role -> tokens that the head adds to a pass; with `leading_frames` under "context"."""
        raise NotImplementedError(f"{type(self).__name__} must state its tokens")

    def build(self, sizes: HeadContext) -> Any:
        """Return a `wamkit.interfaces.ActionHead`."""
        raise NotImplementedError(f"{type(self).__name__} must build an action head")


class ParadigmConfig(SampleShape, Part):
    """Order of denoising, and the attention mask by role."""

    kind: ClassVar[Kind] = "paradigm"
    stateful: ClassVar[bool] = False
    """Whether a chunk knows of those before, as `wamkit.interfaces.Paradigm.stateful`."""

    @property
    def sees(self) -> Visibility:
        """role -> the roles it attends to, the same table in training and in use."""
        raise NotImplementedError(f"{type(self).__name__} must state which roles see each other")

    @property
    def predicts(self) -> tuple[str, ...]:
        """The vectors it denoises: "action", and "next_state" and "value" if it uses them."""
        return ("action",)

    @property
    def observed_in_block(self) -> bool:
        """Whether the observed frames count as frames of the first chunk of an episode.

        That chunk has then as many fewer new frames, and fewer actions.
        """
        return False

    @property
    def max_target_frames(self) -> int | None:
        """Latent frames of each view that it wants imagined for one chunk; None for any number."""
        return None

    @property
    def targets_see_downscaled(self) -> bool:
        """Whether target frames of a smaller grid see the observation as small as themselves.

        Then it is in the pass a second time, as role "seen".
        """
        return False

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        """Variants of a call of `act`: name -> options that force it. A single one is named ''."""
        return {"": {}}

    def prefix_refusal(self, mode: str) -> str | None:
        """Why a chunk takes no prefix in a mode of `wamkit.config.prefix`; None if it does.

        A prefix is held by the model, whatever the loop: a paradigm refuses only if its loop takes
        noisy actions elsewhere.
        """
        return None

    def program(self, spec: PolicySpec) -> tuple[Stage, ...]:
        """Stages of one call of `act`, in order."""
        raise NotImplementedError(f"{type(self).__name__} must state its program")

    def conflict_with_given_actions(self, spec: PolicySpec) -> Conflict | None:
        """Why the future of given actions cannot be imagined; None if it can.

        It can if target frames attend to the action, and if training shows them a clean action at
        times: by a noise level of its own, or however the paradigm has it.
        """
        from .alternatives import unseen_actions

        return unseen_actions(self, spec)

    def build(self) -> Any:
        """Return a `wamkit.interfaces.Paradigm`."""
        raise NotImplementedError(f"{type(self).__name__} must build a paradigm")

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        """Yield the conflicts of the paradigm with `spec`."""
        from .alternatives import hidden_tokens

        yield from hidden_tokens(self, spec)


class EnvironmentConfig(Part):
    """A simulator, with a task in it, that a policy can be tried in."""

    kind: ClassVar[Kind] = "environment"
    subject: ClassVar[str | None] = "task"
    """The key that the suffix after the colon sets: `metaworld:reach-v3` is task = "reach-v3"."""
    subjects: ClassVar[Mapping[str, str]] = {}
    """Every such suffix -> its instruction, if they can be listed."""
    suites: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Benchmark suite -> the suffixes of its tasks, in their published order."""
    suite_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Benchmark suite -> settings of its published protocol that are not the defaults."""
    refused_suites: ClassVar[Mapping[str, str]] = {}
    """Benchmark suite that exists and cannot be played here -> why."""

    max_steps: int = Field(200, gt=0)
    """Actions after which an episode is over."""

    def build(self) -> Any:
        """Return a `wamkit.simulate.Environment`; called in the process that it will run in."""
        raise NotImplementedError(f"{type(self).__name__} must build an environment")

    def open_demonstrations(self, file: Path) -> Any:
        """Return the `wamkit.simulate.convert.Demonstrations` in a file of the benchmark's own."""
        raise NotImplementedError(f"{type(self).__name__} has no format of its own")
