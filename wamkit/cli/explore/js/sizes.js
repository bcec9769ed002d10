// Sizes of a composition: canvas, latents, tokens, parameters. The same formulas as wamkit's own.
"use strict";

const Explore = { data: null };

/** The value of a key of a spec, or its default. */
Explore.value = (choice, section, key) =>
  choice.raw[section]?.[key] ?? Explore.data.defaults[section]?.[key];

/** Settings of the schedule of a modality; those of the action where it has none of its own. */
Explore.schedule = (choice, modality) => {
  const given = choice.raw.schedules ?? {};
  const own = modality === "next_state" || modality === "value"
    ? given[modality] ?? given.action
    : given[modality];
  return { ...Explore.data.defaults.schedule, ...(own ?? {}) };
};

Explore.part = (choice, kind) => Explore.data.parts[kind][choice.parts[kind]];

/** What the paradigm lets see and runs beside the chosen backbone and head; null if it cannot. */
Explore.plan = (choice) => {
  const { paradigm, action_head: head, backbone } = choice.parts;
  const entry = Explore.data.paradigms[paradigm];
  const plan = Explore.data.pools.plans[entry.plans[entry.backbones[backbone]][head]];
  return plan.modes.length ? plan : null;
};

/** What passes of the chosen backbone with the chosen head cost; null if that was not counted. */
Explore.counts = (choice) => {
  const place = Explore.data.costs[choice.parts.backbone][choice.parts.action_head];
  const backbone = Explore.part(choice, "backbone");
  const { channels } = Explore.part(choice, "vae");
  if (backbone.any_channels && channels !== backbone.traits.latent_channels) return null;
  return place === null ? null : Explore.data.pools.costs[place];
};

/** Whether each view has latent frames of its own. */
Explore.isApart = (cameras) => ["frame_per_view", "clip_per_view"].includes(cameras.layout);

Explore.viewRows = (cameras) => {
  const views = cameras.views;
  if (cameras.layout === "side_by_side") return [views];
  if (Explore.isApart(cameras)) return views.map((view) => [view]);
  if (["t_shape", "inverted_t"].includes(cameras.layout)) {
    const found = [views.slice(0, 1), views.slice(1)].filter((row) => row.length);
    return cameras.layout === "t_shape" ? found : found.reverse();
  }
  const rows = [];
  for (let i = 0; i < views.length; i += cameras.columns) {
    rows.push(views.slice(i, i + cameras.columns));
  }
  return rows;
};

Explore.cameras = (choice) => ({
  layout: Explore.value(choice, "cameras", "layout"),
  clip: Explore.value(choice, "cameras", "clip"),
  columns: Explore.value(choice, "cameras", "columns"),
  views: choice.raw.cameras.views.map((view) => ({ name: view.name, size: view.size ?? [224, 224] })),
});

/** Height and width of the canvas in pixels, and how many stand beside each other. */
Explore.canvas = (cameras) => {
  const apart = Explore.isApart(cameras) ? cameras.views.length : 1;
  let [height, width, top] = [0, 0, 0];
  for (const row of Explore.viewRows(cameras)) {
    const start = apart > 1 ? 0 : top;
    let left = 0;
    for (const view of row) {
      height = Math.max(height, start + view.size[0]);
      left += view.size[1];
      width = Math.max(width, left);
    }
    top += row[0].size[0];
  }
  return { height, width, apart };
};

/** Images of a view that make one latent frame, after the first. */
Explore.timeStride = (choice) =>
  (Explore.value(choice, "cameras", "clip") === "shared"
    ? 1 : Explore.part(choice, "vae").stride[0]);

/** All sizes that rules and costs are about. */
Explore.sizes = (choice) => {
  const vae = Explore.part(choice, "vae");
  const { traits } = Explore.part(choice, "backbone");
  const cameras = Explore.cameras(choice);
  const canvas = Explore.canvas(cameras);
  const [, strideH, strideW] = vae.stride;
  const stride = Explore.timeStride(choice);
  const frames = Explore.value(choice, "video", "num_frames");
  const observed = Explore.value(choice, "video", "num_observed");
  const downscale = Explore.value(choice, "video", "target_downscale");
  const alone = Explore.value(choice, "video", "observed_latents") === "images";
  const latents = (images) => (alone
    ? Math.min(images, observed) + Math.ceil(Math.max(0, images - observed) / stride)
    : 1 + Math.floor((images - 1) / stride));
  const seen = latents(observed);
  const moments = latents(frames) - seen;
  const height = Math.floor(canvas.height / strideH);
  const width = Math.floor(canvas.width / strideW);
  const groups = choice.raw.actions.groups;
  const head = Explore.part(choice, "action_head");
  const state = Explore.value(choice, "state", "size");
  return {
    black: head.black[Number(state > 0)],
    cameras, canvas, frames, observed, alone, downscale, moments, seen,
    stride: [stride, strideH, strideW],
    latent: { channels: vae.channels, height, width },
    target: { height: Math.floor(height / downscale), width: Math.floor(width / downscale) },
    context: canvas.apart * seen,
    imagined: canvas.apart * moments,
    chunk: Explore.value(choice, "actions", "chunk_size"),
    action: groups.reduce((sum, group) => sum + group.size, 0),
    state: Explore.value(choice, "state", "size"),
    tokensOf: (count, h, w) => {
      const [t, p, q] = traits.patch_size;
      return Math.floor(count / t)
        * (Math.floor(h / p) * Math.floor(w / q) + traits.frame_tokens);
    },
  };
};

/** The vectors that are denoised; a next state only if there is a state. */
Explore.predicts = (choice, sizes) => {
  const plan = Explore.plan(choice);
  const wanted = plan ? plan.predicts : ["action"];
  return wanted.filter((part) => part !== "next_state" || sizes.state);
};

/** Latent frames that a head which writes into frames takes for a role. */
Explore.slotFrames = (choice, sizes, role) => {
  const form = Explore.part(choice, "action_head").tokens[role];
  if (!form?.frames) return 0;
  if (form.frames === "chunk") {
    const room = sizes.latent.channels * sizes.latent.height * sizes.latent.width;
    return Math.ceil((sizes.chunk * sizes.action) / Math.max(1, room));
  }
  return form.frames[0] + (sizes.state ? form.frames[1] : 0);
};

/** Tokens that the head adds to a role. */
Explore.headTokens = (choice, sizes, role) => {
  const form = Explore.part(choice, "action_head").tokens[role];
  if (!form) return 0;
  if ((role === "value" || role === "next_state")
    && !Explore.predicts(choice, sizes).includes(role)) return 0;
  if (form.frames) {
    const count = Explore.slotFrames(choice, sizes, role);
    return sizes.tokensOf(count, sizes.latent.height, sizes.latent.width);
  }
  const [always, each, felt] = form.tokens;
  return always + each * sizes.chunk + (sizes.state ? felt : 0);
};

/** Tokens of each role in one full pass over one chunk. */
Explore.tokens = (choice, sizes = Explore.sizes(choice)) => {
  const whole = Explore.published(choice);
  if (whole) return { ...whole.tokens };
  const { latent, target } = sizes;
  const found = {
    text: Explore.part(choice, "text_encoder").max_tokens,
    context: sizes.tokensOf(sizes.context, latent.height, latent.width)
      + Explore.headTokens(choice, sizes, "context"),
    target: sizes.tokensOf(sizes.imagined, target.height, target.width),
  };
  for (const role of ["state", "action", "next_state", "value"]) {
    found[role] = Explore.headTokens(choice, sizes, role);
  }
  return found;
};

Explore.dot = (coefficients, row) => {
  let sum = 0;
  for (let i = 0; i < row.length; i += 1) sum += coefficients[i] * row[i];
  return sum;
};

/** Parameters of each part; null where they were not counted. */
Explore.parameters = (choice, sizes = Explore.sizes(choice)) => {
  const found = { paradigm: 0 };
  for (const kind of ["backbone", "vae", "text_encoder"]) {
    found[kind] = Explore.part(choice, kind).parameters;
  }
  const counts = Explore.counts(choice);
  const whole = Explore.published(choice);
  found.action_head = whole ? whole.head : null;
  if (counts && !whole) {
    const predicts = Explore.predicts(choice, sizes);
    const { chunk, action, state, latent } = sizes;
    const next = Number(predicts.includes("next_state"));
    const { latent_channels: channels } = Explore.part(choice, "backbone").traits;
    const area = (latent.height * latent.width * latent.channels) / Math.max(1, channels);
    found.action_head = Explore.dot(counts.parameters, [
      1, chunk, action, chunk * action, area, Number(state > 0), state,
      Number(predicts.includes("value")), next, next * state,
    ]);
  }
  return found;
};
