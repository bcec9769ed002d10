// Why a composition cannot be built: every conflict with its cure, as `wamkit check` finds them.
"use strict";

Explore.named = (backbone, kind) => backbone.naming[kind];

Explore.quoted = (text) => (text.includes("'") && !text.includes('"') ? `"${text}"` : `'${text}'`);

/** All conflicts: {between, why, hint}. */
Explore.conflicts = (choice) => {
  const whole = Explore.published(choice);
  if (whole) return whole.conflicts;
  const sizes = Explore.sizes(choice);
  return [
    ...Explore.cameraConflicts(sizes),
    ...Explore.channelConflicts(choice),
    ...Explore.textConflicts(choice),
    ...Explore.canvasConflicts(choice, sizes),
    ...Explore.clipConflicts(choice, sizes),
    ...Explore.viewConflicts(choice, sizes),
    ...Explore.sharedClipConflicts(choice, sizes),
    ...Explore.stateConflicts(choice, sizes),
    ...Explore.partConflicts(choice, sizes),
  ];
};

Explore.channelConflicts = (choice) => {
  const vae = Explore.part(choice, "vae");
  const backbone = Explore.part(choice, "backbone");
  const { traits } = backbone;
  const found = [];
  if (vae.channels !== traits.latent_channels && vae.adapter === "none" && !backbone.any_channels) {
    found.push({
      between: ["vae", "backbone"],
      why: `${vae.name} makes latents of ${vae.channels} channels, `
        + `${backbone.name} denoises latents of ${traits.latent_channels}`,
      hint: `choose the VAE the backbone was trained with${Explore.named(backbone, "vae")}, or `
        + 'set vae.adapter = "linear" to learn projections between the two',
    });
  }
  const made = vae.stride[0] + vae.channels;
  if (traits.cond_channels && traits.cond_channels !== made) {
    found.push({
      between: ["backbone", "vae"],
      why: `this variant of ${backbone.name} is guided by ${traits.cond_channels} `
        + `channels, ${vae.name} makes ${vae.stride[0]} of mask and ${vae.channels} of latents`,
      hint: `choose the VAE the backbone was trained with${Explore.named(backbone, "vae")}`,
    });
  }
  return found;
};

Explore.textConflicts = (choice) => {
  const encoder = Explore.part(choice, "text_encoder");
  const backbone = Explore.part(choice, "backbone");
  const head = Explore.part(choice, "action_head");
  const found = [];
  if (encoder.width !== backbone.traits.text_width && encoder.adapter === "none"
    && !encoder.any_width) {
    found.push({
      between: ["text_encoder", "backbone"],
      why: `${encoder.name} makes embeddings of width ${encoder.width}, `
        + `${backbone.name} reads width ${backbone.traits.text_width}`,
      hint: 'set text_encoder.adapter = "linear" to learn a projection, or choose the encoder '
        + `the backbone was trained with${Explore.named(backbone, "text_encoder")}`,
    });
  }
  if (backbone.traits.text === "none"
    && !Explore.data.reads_text[choice.parts.backbone][choice.parts.action_head]) {
    found.push({
      between: ["backbone", "action_head"],
      why: `${backbone.name} reads no text, nor does ${head.name}: the `
        + "instruction would change nothing",
      hint: "choose an action head that attends to the instruction, such as "
        + Explore.data.text_hint,
    });
  }
  return found;
};

Explore.canvasConflicts = (choice, sizes) => {
  const vae = Explore.part(choice, "vae");
  const backbone = Explore.part(choice, "backbone");
  const found = [];
  const token = [1, 2].map((i) => vae.stride[i] * backbone.traits.patch_size[i]);
  const fits = Explore.retiled(sizes.cameras, token);
  const axes = [["high", "height", 1], ["wide", "width", 2]];
  for (const [axis, side, place] of axes) {
    const [stride, patch] = [vae.stride[place], backbone.traits.patch_size[place]];
    const size = sizes.canvas[side];
    if (size % (stride * patch)) {
      found.push({
        between: ["cameras", "vae", "backbone"],
        why: `the canvas is ${size} pixels ${axis}, which ${vae.name} (stride ${stride}) and `
          + `${backbone.name} (patch ${patch}) cannot cut into tokens of ${stride * patch} pixels`,
        hint: `change the sizes of the views so that the canvas is ${fits[side]} pixels ${axis}: `
          + Explore.resizeHint(sizes.cameras, token),
      });
    }
  }
  return found;
};

/** What does not fit a paradigm that continues one clip through an episode. */
Explore.episodeConflicts = (choice, key, hint) => {
  const paradigm = Explore.part(choice, "paradigm");
  return !paradigm.continues ? [] : [{
    between: [key, "paradigm"],
    why: `${paradigm.name} continues one clip from chunk to chunk`,
    hint: `${hint}, or choose another paradigm`,
  }];
};

/** What keeps each view from being a clip by itself. */
Explore.viewConflicts = (choice, sizes) => {
  const { name, traits } = Explore.part(choice, "backbone");
  const found = [];
  if (sizes.cameras.layout === "clip_per_view") {
    const count = sizes.cameras.views.length;
    if (!traits.views) {
      found.push({
        between: ["cameras.layout", "backbone"],
        why: `each view is a clip by itself, and ${name} tells no views apart`,
        hint: 'set cameras.layout = "side_by_side", or choose a backbone with views'
          + Explore.data.with_views,
      });
    } else if (count > traits.views) {
      found.push({
        between: ["cameras.views", "backbone"],
        why: `${name} tells ${traits.views} views apart, found ${count}`,
        hint: `leave ${count - traits.views} of cameras.views out, or choose another layout`,
      });
    }
    found.push(...Explore.episodeConflicts(
      choice, "cameras.layout", 'set cameras.layout = "side_by_side"',
    ));
  }
  const stride = Explore.value(choice, "video", "frame_stride");
  const past = Explore.value(choice, "video", "observed_stride") ?? stride;
  if (past !== stride) {
    found.push(...Explore.episodeConflicts(
      choice, "video.observed_stride", `set video.observed_stride = ${stride}`,
    ));
  }
  return found;
};

/** What does not fit where each observed image is a latent of its own. */
Explore.observedImagesConflicts = (choice, sizes) => {
  const { name, traits } = Explore.part(choice, "backbone");
  const stride = Explore.part(choice, "vae").stride[0];
  const future = sizes.frames - sizes.observed;
  const hint = 'set video.observed_latents = "clip"';
  const found = [];
  if (future < 0 || (future && (future - 1) % stride)) {
    const low = sizes.observed + 1 + Math.floor(Math.max(0, future - 1) / stride) * stride;
    found.push({
      between: ["video.num_frames", "video.observed_latents"],
      why: `${future} images behind those observed, which begin a clip of their own, cannot `
        + `be cut into one and groups of ${stride}, as ${Explore.part(choice, "vae").name} needs`,
      hint: `set video.num_frames = ${low} or ${low + stride}`,
    });
  }
  if (Explore.value(choice, "cameras", "clip") === "shared") {
    found.push({
      between: ["video.observed_latents", "cameras.clip"],
      why: "all views are one clip, in which every image is a latent already",
      hint,
    });
  }
  if (traits.cond_channels) {
    found.push({
      between: ["video.observed_latents", "backbone"],
      why: `${name} is guided by a clip that begins with the observed images`,
      hint,
    });
  }
  return [...found, ...Explore.episodeConflicts(choice, "video.observed_latents", hint)];
};

Explore.clipConflicts = (choice, sizes) => {
  const vae = Explore.part(choice, "vae");
  const backbone = Explore.part(choice, "backbone");
  const { traits } = backbone;
  const { frames, observed, imagined, downscale, canvas } = sizes;
  const stride = Explore.timeStride(choice);
  const found = sizes.alone ? Explore.observedImagesConflicts(choice, sizes) : [];
  for (const [name, count] of [["num_frames", frames], ["num_observed", observed]]) {
    if (!sizes.alone && (count - 1) % stride) {
      const low = 1 + Math.floor((count - 1) / stride) * stride;
      found.push({
        between: [`video.${name}`, "vae"],
        why: `${count} images cannot be cut into one and groups of ${stride}, as `
          + `${vae.name} needs`,
        hint: `set video.${name} = ${low} or ${low + stride}`,
      });
    }
  }
  if (!sizes.alone && observed >= Math.max(2, frames)) {
    found.push({
      between: ["video.num_observed", "video.num_frames"],
      why: `${observed} of ${frames} images are observed, none is left to imagine`,
      hint: `set video.num_frames = ${observed + stride}, or video.num_observed = 1`,
    });
  }
  if (imagined && !traits.imagines) {
    found.push({
      between: ["backbone", "video.num_frames"],
      why: `${backbone.name} only encodes images; it cannot imagine ${frames - observed} images`,
      hint: `set video.num_frames = ${observed}, or choose a backbone that was trained to denoise`,
    });
  } else if (imagined > 1 && traits.frames === "one") {
    found.push({
      between: ["backbone", "video.num_frames"],
      why: `${backbone.name} edits images: it denoises one frame a pass, not ${imagined}`,
      hint: imagined === canvas.apart
        ? 'set cameras.layout = "side_by_side", so that the views of a moment are one frame'
        : `set video.num_frames = ${observed + stride}, and video.frame_stride to when that image is`,
    });
  }
  if (downscale === 1) return found;
  const [tall, broad] = [1, 2].map((i) => vae.stride[i] * traits.patch_size[i]);
  const token = [downscale * tall, downscale * broad];
  const whole = [canvas.height, canvas.width];
  if (whole.some((n, i) => n % token[i])) {
    const near = Explore.retiled(sizes.cameras, token);
    found.push({
      between: ["video.target_downscale", "cameras"],
      why: `images of ${whole[0]}x${whole[1]} that are made ${downscale} times smaller cannot `
        + `be cut into tokens of ${tall}x${broad} pixels`,
      hint: `change the views so that the canvas is ${near.height}x${near.width}: `
        + `${Explore.resizeHint(sizes.cameras, token)}, or set video.target_downscale = 1`,
    });
  }
  if (traits.cond_channels) {
    found.push({
      between: ["video.target_downscale", "backbone"],
      why: `this variant of ${backbone.name} takes a mask of observed images, `
        + "on the grid of the observed frames",
      hint: "set video.target_downscale = 1, or choose a variant that takes the first frame as a "
        + "clean latent",
    });
  }
  return found;
};

/** What has no place where all views are one clip of the VAE. */
Explore.sharedClipConflicts = (choice, sizes) => {
  if (sizes.cameras.clip !== "shared") return [];
  const backbone = Explore.part(choice, "backbone");
  const paradigm = Explore.part(choice, "paradigm");
  const found = [];
  const refuse = (part, why) => found.push({
    between: ["cameras.clip", part],
    why: `all views are one clip, and ${why}`,
    hint: 'set cameras.clip = "per_view"',
  });
  if (sizes.downscale > 1) {
    refuse("video.target_downscale", "imagined frames of another size cannot be in it");
  }
  if (backbone.traits.cond_channels) {
    refuse("backbone", `this variant of ${backbone.name} is guided by the latents of each view's `
      + "images");
  }
  const { chunks } = Explore.data.paradigms[choice.parts.paradigm];
  if (chunks > 1) {
    refuse("paradigm", `it has slots for one chunk, and ${paradigm.name} learns ${chunks} in a row`);
  }
  return found;
};

Explore.stateConflicts = (choice, sizes) => {
  const found = [];
  const relative = choice.raw.actions.groups.filter((group) => group.kind === "relative");
  if (sizes.state === 0 && relative.length) {
    found.push({
      between: ["actions.groups", "state.size"],
      why: "relative actions are differences to the state, and the policy gets no state",
      hint: `set state.size = ${sizes.action}, or to that of your robot, or make the `
        + "group absolute or delta",
    });
  }
  const { groups } = choice.raw.actions;
  for (const group of groups.filter(({ kind }) => kind === "state")) {
    const start = group.state ?? 0;
    if (start + group.size > sizes.state) {
      found.push({
        between: ["actions.groups", "state.size"],
        why: `group ${Explore.quoted(group.name)} is values ${start} to ${start + group.size - 1} of a `
          + `state of ${sizes.state}`,
        hint: `set state.size = ${start + group.size}`,
      });
    }
    found.push(...Explore.episodeConflicts(
      choice, "actions.groups", 'leave out groups of kind = "state"',
    ));
  }
  for (const [place, group] of groups.entries()) {
    if (group.kind !== "relative") continue;
    const before = groups.slice(0, place).reduce((sum, other) => sum + other.size, 0);
    const start = Math.max(0, Math.min(before, sizes.state - group.size));
    const name = Explore.quoted(group.name);
    if (group.state === undefined) {
      found.push({
        between: ["actions.groups"],
        why: `group ${name} is relative but does not say to what in the state`,
        hint: `set actions.groups.${place}.state = ${start}, or to the place of ${group.name}'s `
          + "first value in the state",
      });
    } else if (sizes.state && group.state + group.size > sizes.state) {
      found.push({
        between: ["actions.groups", "state.size"],
        why: `group ${name} is relative to values ${group.state} to `
          + `${group.state + group.size - 1} of a state of ${sizes.state}`,
        hint: `set state.size = ${group.state + group.size}, or actions.groups.${place}.state = ${start}`,
      });
    }
  }
  return found;
};

/** What the backbone and a VAE or a text encoder say of each other: places among the reasons. */
Explore.companionPlaces = (choice, kind) => (
  Explore.data.companions[kind][choice.parts.backbone][choice.parts[kind]]);

/** The reasons of the parts themselves, which were computed in advance. */
Explore.partConflicts = (choice, sizes) => {
  const { backbone, action_head: head, paradigm } = choice.parts;
  // More observed than there is: a conflict of its own, beside which none is "nothing imagined".
  const moments = sizes.moments < 0 ? 2 : Math.min(2, sizes.moments);
  const context = Explore.data.contexts.findIndex(
    ([imagined, state]) => imagined === moments && state === Number(sizes.state > 0),
  );
  const entry = Explore.data.paradigms[paradigm];
  const steps = Explore.schedule(choice, "action").steps;
  const places = [
    ...Explore.companionPlaces(choice, "vae"),
    ...Explore.companionPlaces(choice, "text_encoder"),
    ...Explore.data.head_rules[backbone][head][context],
    ...entry.rules[entry.backbones[backbone]][head][context],
  ];
  const stride = Explore.timeStride(choice);
  const values = {
    after: sizes.observed + stride,
    frames: sizes.frames,
    observed: sizes.observed,
    imagined: sizes.moments,
    chunk: sizes.chunk,
    action: sizes.action,
    state: sizes.state,
    steps,
    last: steps - 1,
    context: sizes.context,
  };
  const filled = (text) => text.replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
  const reasons = [...new Set(places)].map((place) => Explore.data.pools.reasons[place]);
  for (const reason of Explore.data.clip_rules[backbone]) {
    if (sizes.context <= reason.above) continue;
    const each = Math.floor(reason.above / sizes.canvas.apart);
    values.most = sizes.alone ? each : 1 + (each - 1) * stride;
    reasons.push(each ? reason : { ...reason, hint: reason.crowded });
  }
  return reasons
    .filter((reason) => reason.steps === undefined || reason.steps === steps)
    .filter((reason) => !reason.wider || sizes.state > sizes.action)
    .filter((reason) => !reason.smaller || sizes.downscale > 1)
    .filter((reason) => !reason.tied || Explore.schedule(choice, reason.tied).shared_sigma)
    .map(({ between, why, hint }) => ({ between, why: filled(why), hint: filled(hint) }));
};

/** What fits and may yet not do what one expects. */
Explore.cautions = (choice) => {
  const { cautions } = Explore.data;
  const backbone = Explore.part(choice, "backbone").id;
  return ["vae", "text_encoder"]
    .map((kind) => cautions[kind][`${backbone} ${Explore.part(choice, kind).id}`])
    .filter(Boolean);
};

/** Packages that a chosen part needs and that were not installed where the page was made. */
Explore.missing = (choice) => Object.keys(Explore.data.parts)
  .map((kind) => [kind, Explore.part(choice, kind)])
  .filter(([, part]) => part.missing)
  .map(([kind, part]) => ({ kind, name: part.name, what: part.missing }));
