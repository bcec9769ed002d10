"""A policy: five parts that act, learn, imagine, and can be saved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..acceleration.compile_modules import CompiledPass, as_written, compile_encoder
from ..acceleration.fused_linear import FusedLinear, fuse, unfuse
from ..acceleration.precision import exact, lowered
from ..acceleration.quantize import MIN_ELEMENTS, QuantizationReport, check_kind, quantize
from ..acceleration.vae_graph import record_encoder
from ..checkpoints.random_weights import build_seeded
from ..checkpoints.safetensors import cast
from ..config.spec import PolicySpec
from ..engine.kv_cache import KVCache
from ..engine.noise_schedule import schedules_of
from ..engine.passes import PassRunner
from ..errors import WamkitError, did_you_mean
from ..interfaces import VAE, ActionHead, Backbone, Model, Paradigm, TextEncoder
from ..interfaces.conditioner import Conditioner
from ..interfaces.types import ModelInputs, ModelOutput, ParadigmOutput, Text
from . import imagining, losses, preprocessing
from .action_prefix import ActionPrefix, add_prefix, keep_prefix
from .actions import ActionSpace, StateSpace, Statistics
from .adapters import AdaptedBackbone, LatentAdapter
from .blame import expect_chunk
from .cameras import CameraLayout
from .devices import DeviceModule, expect_device
from .guidance import with_cfg
from .leading import LeadingFrame
from .observation import ActionChunk, Batch, Imagined, Losses, Observation
from .precomputed_text import build_text_encoder
from .prefix_model import with_prefix
from .prefix_training import with_clean_prefix
from .run_mode import (
    MAX_GRAPHS,
    Act,
    CapturedGraph,
    GraphPool,
    Mode,
    captures,
    check_mode,
    compiles,
    input_signature,
)
from .seeds import Seed as Seed
from .seeds import generator as generator
from .session import Session
from .text_cache import PromptState, TextEmbeddingCache, pooled_text_cache

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(DeviceModule):
    """Observations to action chunks, and to the future it imagines.

    Made by `wamkit.build(spec)` or `Policy.load(folder)`.
    """

    backbone: Backbone
    vae: VAE
    text_encoder: TextEncoder
    action_head: ActionHead
    paradigm: Paradigm

    def __init__(
        self,
        spec: PolicySpec,
        parts: Mapping[str, object],
        statistics: Mapping[str, Statistics] | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        for kind, part in parts.items():
            setattr(self, kind, part)
        self.conditioner: Conditioner | None = parts.get("conditioner")  # type: ignore[assignment]
        self.text_adapter: nn.Module = nn.Identity()
        if spec.text_encoder.adapter == "linear":
            width = spec.backbone.traits.text_width
            self.text_adapter = nn.Linear(spec.text_encoder.width, width)
        self.latent_adapter: nn.Module = nn.Identity()
        if spec.vae.adapter == "linear":
            channels = spec.backbone.traits.latent_channels
            self.latent_adapter = LatentAdapter(spec.vae.channels, channels)
        self.schedules = schedules_of(spec)
        self.cameras = CameraLayout(spec.cameras)
        self.set_statistics(statistics or {})
        self.text_embeddings = TextEmbeddingCache(
            self.text_encoder, spec.text_encoder.prompt_template
        )
        width = spec.backbone.traits.cond_embeds_width
        self.pooled_text = pooled_text_cache(
            self.conditioner, width, spec.text_encoder.prompt_template
        )
        for kind in ("backbone", "action_head", "conditioner"):
            if isinstance(module := getattr(self, kind), nn.Module):
                exact(cast(module, DTYPES[spec.dtype]))
        for frozen in (self.vae, None if self.text_encoder.trainable else self.text_encoder):
            if isinstance(frozen, nn.Module):
                frozen.requires_grad_(False)
        self.mode: Mode = "eager"
        self.quantized: str = "none"
        self._graphs: dict[tuple[Any, ...], CapturedGraph] = {}
        self._capture = GraphPool()
        self._fused_layers: list[FusedLinear] | None = None
        self.runner = PassRunner()
        self.prompt_state, self.leading_frame = PromptState(), LeadingFrame()
        self.eval()

    @staticmethod
    def from_spec(
        spec: PolicySpec,
        *,
        device: str = "cpu",
        statistics: Mapping[str, Statistics] | None = None,
        mode: str = "eager",
    ) -> Policy:
        """Build every part of a checked spec; on device "meta" without a single weight."""
        expect_device(device, has_values=False)
        makers = {
            "vae": spec.vae.build,
            "text_encoder": lambda: build_text_encoder(spec.text_encoder),
            "backbone": spec.backbone.build,
            "action_head": lambda: spec.action_head.build(spec.sizes),
        }
        parts = {kind: build_seeded(spec, kind, make, device) for kind, make in makers.items()}
        parts["paradigm"] = spec.paradigm.build()
        if spec.backbone.traits.cond_embeds_width:
            make = spec.backbone.conditioner
            parts["conditioner"] = build_seeded(spec, "conditioner", make, device)
        with torch.device("meta" if device == "meta" else "cpu"):
            policy = build_seeded(spec, "policy", lambda: Policy(spec, parts, statistics), device)
        if device != "meta":
            policy.action_head.initialize_from(policy.backbone)
            policy.to(device)
        policy.set_mode(mode)
        return policy

    @property
    def device(self) -> torch.device:
        """Where the policy runs."""
        return next(self.parameters()).device

    def set_mode(self, mode: str) -> None:
        """Set the run mode (`wamkit.policy.run_mode`); call it again after moving the policy.

        `act` and `sample` are captured; `imagine` is not. Raises WamkitError if this policy
        cannot run so on its device.
        """
        chosen = check_mode(mode, self.device)
        if captures(chosen) and self.paradigm.stateful:
            raise WamkitError(
                f"{self.spec.paradigm.name} grows its memory with every chunk, and a graph is "
                "recorded for one shape",
                'choose mode "compile" or "eager"',
            )
        as_written(self)
        self._graphs.clear()
        self._invalidate()
        self.runner = PassRunner(CompiledPass if compiles(chosen) else None)
        if compiles(chosen) and self.device.type == "cuda":  # on a CPU it gains nothing
            compile_encoder(self.vae)
        if captures(chosen):
            record_encoder(self.vae, self._capture)
        self.mode = chosen

    def quantize(self, kind: str, min_elements: int = MIN_ELEMENTS) -> QuantizationReport | None:
        """Quantize large weights to 8 bits for acting (`wamkit.acceleration.quantize`).

        For good: a policy that was rounded can neither learn nor be saved, and is loaded again to
        be as it was. Raises WamkitError if this policy cannot be rounded so on its device.
        """
        chosen = check_kind(kind, self.device, self.spec.dtype)
        if chosen == self.quantized:
            return None
        if self.quantized != "none":
            raise WamkitError(
                f"this policy is {self.quantized} already, and its original weights were discarded",
                f"load it again, then quantize it to {kind!r}",
            )
        self._invalidate()
        unfuse(self)
        done = quantize(
            (self.backbone, self.action_head), chosen, DTYPES[self.spec.dtype], min_elements
        )
        self.quantized = chosen
        self.set_mode(self.mode)
        return done

    def train(self, mode: bool = True) -> Policy:
        """As `nn.Module.train`; in training mode, every weight has its own storage.

        Raises WamkitError if weights were rounded (`quantize`).
        """
        if mode and self.quantized != "none":
            raise WamkitError(
                f"this policy is {self.quantized}, and rounded weights cannot learn",
                "load it again, and train it before it is quantized",
            )
        self._invalidate()
        if mode:
            unfuse(self)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Policy:
        """As that of a module, which moves and casts weights."""
        self._invalidate()
        return super()._apply(fn, recurse)

    def _invalidate(self) -> None:
        """Drop everything derived from the weights: fused layers, graphs and caches."""
        self._fused_layers = None
        for derived in (self.prompt_state, self.leading_frame, self.runner):
            derived.forget()

    def _ensure_fused(self) -> None:
        """Fuse layers for the first chunk, and again if weights have moved."""
        if self.training:
            return
        if self._fused_layers is None or not all(row.is_valid() for row in self._fused_layers):
            self._fused_layers = fuse(self)
            self._graphs.clear()
            self.runner.recompile()

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        """Set the statistics that normalize `action` and `state`."""
        if unknown := sorted(set(statistics) - {"action", "state"}):
            raise WamkitError(
                f"statistics of {', '.join(unknown)}; expected action and state",
                "rename the tables",
            )
        for name, table in statistics.items():
            table.expect_finite(name)
        self.actions = ActionSpace(self.spec.actions, statistics.get("action"))
        self.states = StateSpace(self.spec.state, statistics.get("state"))

    @property
    def statistics(self) -> dict[str, Statistics]:
        """The statistics given to `set_statistics`."""
        found = {"action": self.actions.statistics, "state": self.states.normalizer.statistics}
        return {name: value for name, value in found.items() if value is not None}

    def model(
        self, inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        """One pass of backbone and head under the paradigm's visibility, or that of the inputs."""
        sees = self.paradigm.sees if inputs.sees is None else inputs.sees
        return self.action_head.join(self.runner, self._network, inputs, sees, cache, keep)

    @property
    def _network(self) -> Backbone:
        """The backbone, behind its adapter if it has one."""
        if not isinstance(self.latent_adapter, LatentAdapter):
            return self.backbone
        if "_adapted" not in self.__dict__ or self._adapted.inner is not self.backbone:
            self.__dict__["_adapted"] = AdaptedBackbone(self.backbone, self.latent_adapter)
        return self._adapted

    _adapted: AdaptedBackbone

    def model_with_cfg(self, inputs: ModelInputs) -> Model:
        """The model with the classifier-free guidance that the schedules set."""
        return self._with_cfg(inputs, self._negative(inputs.text.tokens.shape[0]))

    def _negative(self, batch: int) -> Text | None:
        """Negative prompt for `batch` samples; None without guidance."""
        self._ensure_fused()
        if all(flow.config.guidance_scale == 1 for flow in self.schedules.values()):
            return None
        prompts = (self.spec.text_encoder.negative_prompt,) * batch
        return preprocessing.embed_prompts(self, prompts, "{instruction}")

    def _with_cfg(self, inputs: ModelInputs, negative: Text | None) -> Model:
        """The model, with classifier-free guidance if there is a negative prompt.

        The head appends the same tokens as to a prompt.
        """
        scales = {part: flow.config.guidance_scale for part, flow in self.schedules.items()}
        if negative is None:
            return self.model
        prepared = self.action_head.prepare(inputs.with_(text=negative)).text
        return with_cfg(self.model, prepared, scales)

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        *,
        prefix: ActionPrefix | None = None,
        seed: Seed = None,
        **act_options: Any,
    ) -> ActionChunk:
        """Sample the next actions, in physical units; they continue a `prefix` if there is one.

        The same seed gives the same chunk; with a seed for each sample, each gets the chunk it
        would get alone. `act_options` are keyword arguments that `paradigm.act_options` names.
        Raises WamkitError for others, for unexpected cameras, images or state, for a prefix that
        the policy cannot take, and if an action is not finite.
        """
        self._require_act_options(act_options)
        inputs = preprocessing.inference_inputs(
            self, observation, with_future=self.paradigm.needs_future
        )
        inputs = add_prefix(self, inputs, prefix, observation)
        out = self.sample(inputs, seed=seed, **act_options)
        return keep_prefix(self, self.to_action_chunk(out, observation), prefix, observation)

    @torch.no_grad()
    def sample(
        self, inputs: ModelInputs, *, seed: Seed = None, **act_options: Any
    ) -> ParadigmOutput:
        """The output of the paradigm for `inputs`, in normalized units; otherwise as `act`."""
        self._require_act_options(act_options)
        rng = generator(seed)
        if not captures(self.mode):
            return self._run_paradigm(act_options)(inputs, rng)
        self._ensure_fused()  # drops graphs of weights that have moved
        key = input_signature(inputs, act_options)
        graph = self._graphs.pop(key, None)
        if graph is None:
            seed_used = rng.initial_seed() if seed is None else seed
            with torch.inference_mode(False), torch.no_grad():
                graph = CapturedGraph(
                    self._run_paradigm(act_options), inputs, rng, self._capture, self.runner.kept
                )
            rng = generator(seed_used)
        self._graphs[key] = graph  # the last one is the one that was used last
        if len(self._graphs) > MAX_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return graph(inputs, rng)

    def _run_paradigm(self, act_options: Mapping[str, Any]) -> Act:
        """The paradigm's `act` around this policy's network.

        The negative prompt is looked up once: a captured graph reads it where it lies.
        """
        negative: dict[int, Text | None] = {}

        def act(inputs: ModelInputs, rng: torch.Generator) -> ParadigmOutput:
            batch = inputs.text.tokens.shape[0]
            if batch not in negative:
                negative[batch] = self._negative(batch)
            model = self._with_cfg(inputs, negative[batch])
            model = model if inputs.prefix is None else with_prefix(model)
            return self.paradigm.act(model, inputs, self.schedules, rng, **act_options)

        return act

    def session(self) -> Session:
        """Start an episode: a session that samples chunk after chunk, for every paradigm.

        Sessions of one policy know nothing of each other.
        """
        return Session(self)

    def to_action_chunk(self, out: ParadigmOutput, observation: Observation) -> ActionChunk:
        """Convert the output of a paradigm to physical units on the CPU; WamkitError for NaN."""
        values = self.action_head.from_latent("action", out.action).float().cpu()
        state = preprocessing.physical_state(self, observation)
        executed, names = self.actions.to_robot(values, None if state is None else state.cpu())
        chunk = ActionChunk(
            values=executed,
            control_hz=self.spec.actions.control_hz,
            names=names,
            normalized=self.actions.statistics is None,
            value=None if out.value is None else out.value.float().cpu(),
            notes={name: note.cpu() for name, note in out.notes.items()},
        )
        expect_chunk(self, chunk, values, observation)
        return chunk

    @torch.no_grad()
    def imagine(
        self, observation: Observation, *, actions: Any = None, seed: Seed = None
    ) -> Imagined:
        """Predict future images, observed ones first.

        With `actions` [B, N, A], a chunk in physical units for each sample, the future that
        follows from them, with next state and value where the paradigm predicts these. Raises
        WamkitError on NaN, if it imagines nothing (no frame beyond video.num_observed), and for
        actions that the imagined frames of this policy do not depend on.
        """
        if actions is None:
            return imagining.imagine(self, observation, generator(seed))
        return imagining.imagine_given(self, observation, actions, generator(seed))

    def loss(
        self, batch: Batch, *, seed: Seed = None, compute: torch.dtype = torch.float32
    ) -> Losses:
        """Velocity losses of one batch, weighted by noise level and masked where data is padding.

        With a seed for each sample, they are the mean of the losses of single samples.
        With another `compute` than float32 the pass of backbone and head runs under torch's
        autocast: matrix products and attention in that dtype, weights and losses as they are, and
        parts listed in `keep_float32` in float32. WamkitError for a wrong batch.
        """
        inputs = preprocessing.training_inputs(self, batch)
        rng = generator(seed)
        noisy, target = self.paradigm.add_noise(inputs, self.schedules, rng)
        noisy = with_clean_prefix(self.spec, inputs, noisy, rng)
        self._ensure_fused()
        with lowered(self.device, compute):
            velocity = self.model(noisy)
        parts = {
            part: losses.modality_loss(self, part, goal, noisy, velocity, batch)
            for part, goal in target.items()
            if part != "video" or self.spec.backbone.traits.imagines
        }
        weights = {name: self.schedules[name].config.loss_weight for name in parts}
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def _require_act_options(self, act_options: Mapping[str, Any]) -> None:
        known = self.paradigm.act_options
        for name in act_options:
            if name not in known:
                hint = did_you_mean(name, list(known), f"it leaves {', '.join(known) or 'nothing'}")
                raise WamkitError(
                    f"{self.spec.paradigm.name} leaves no choice called {name!r}", hint
                )

    def save(self, folder: str | Path) -> Path:
        """Write the policy to `folder` atomically; see `wamkit.policy.saving`."""
        from .saving import save

        return save(self, folder)

    @staticmethod
    def load(folder: str | Path, overrides: Iterable[str] = (), *, device: str = "cpu") -> Policy:
        """Read a saved policy, with `overrides` such as "schedules.action.steps=5".

        Raises WamkitError if anything in the folder is wrong.
        """
        from .saving import load

        return load(folder, overrides, device=device)
