// What one chunk runs and costs: stages, passes, operations, bytes and the least time they take.
"use strict";

/** A role without what tells blocks and copies of it apart. */
Explore.base = (role) => role.replace(/'+$/, "").split(".")[0];

/** The modes in which the paradigm can act. */
Explore.modes = (choice) => {
  const plan = Explore.plan(choice);
  return plan ? plan.modes.map((mode) => mode.name) : [];
};

/** The stages of one chunk, as traced in advance. */
Explore.stages = (choice, sizes) => {
  const plan = Explore.plan(choice);
  if (!plan) return [];
  const mode = plan.modes.find(({ name }) => name === choice.mode) ?? plan.modes[0];
  return (sizes.moments > 0 ? mode.with : mode.without) ?? mode.with ?? mode.without;
};

Explore.passes = (choice, stage) => {
  const [v, a, s, w] = ["video", "action", "next_state", "value"]
    .map((modality) => Explore.schedule(choice, modality).steps);
  if (!stage.passes) return stage.table[`${v},${a},${s},${w}`] ?? 0;
  const few = [Math.min(v, a), Math.min(v + 1, a), Math.min(v, a + 1)];
  return Explore.dot(stage.passes, [1, v, a, s, w, ...few, Math.max(v, s), Math.max(v, a, s, w)]);
};

/** Whether a schedule asks for classifier-free guidance, which doubles every pass. */
Explore.guided = (choice) => ["video", "action", "next_state", "value"].some(
  (modality) => Explore.schedule(choice, modality).guidance_scale !== 1,
);

/** Whether the network computes in float32. */
Explore.isWide = (choice) => (choice.raw.dtype ?? Explore.data.defaults.dtype) === "float32";

/** What the passes of a stage are made of. */
Explore.stageParts = (choice, sizes, stage, counts) => {
  const { traits } = Explore.part(choice, "backbone");
  const extra = counts.tokens ?? {};
  const felt = sizes.state > 0;
  const cached = new Set(stage.cached);
  const text = Explore.part(choice, "text_encoder").max_tokens
    + (felt && extra.suffix ? extra.suffix : 0);
  const streamed = traits.text === "stream";
  const parts = { text, streamed, cached, clips: [], own: [], ownTokens: {}, vectors: {} };
  const has = (modality) => stage.vectors.some(([name]) => name === modality)
    && (modality !== "next_state" || felt);
  for (const modality of ["action", "next_state", "value"]) parts.vectors[modality] = has(modality);
  const { latent, target, downscale } = sizes;
  const tall = sizes.tokensOf(1, latent.height, latent.width);
  const small = sizes.tokensOf(1, target.height, target.width);
  const seen = stage.frames.filter((role) => Explore.base(role) === "context");
  const made = sizes.imagined > 0
    ? stage.frames.filter((role) => Explore.base(role) !== "context") : [];
  const video = seen.map((role) => [role, sizes.context]);
  const future = made.map((role) => [role, sizes.imagined]);
  const slots = [];
  if (counts.joins === "frames") {
    if (![...cached].some((role) => Explore.base(role) === "context")) {
      slots.push(["context", Explore.slotFrames(choice, sizes, "context")]);
    }
    if (stage.state && felt && !cached.has(stage.state)) {
      slots.push([stage.state, Explore.slotFrames(choice, sizes, "state")]);
    }
    for (const [modality, role] of stage.vectors) {
      if (has(modality)) slots.push([role, Explore.slotFrames(choice, sizes, modality)]);
    }
  }
  const first = [...video, ...(downscale === 1 ? future : []), ...slots].filter(([, n]) => n);
  if (first.length) parts.clips.push({ frames: first, each: tall, size: latent });
  if (downscale > 1 && future.length) {
    parts.clips.push({ frames: future, each: small, size: target });
  }
  parts.textNew = streamed && !cached.has("text") && parts.clips.length > 0;
  if (counts.joins === "tokens") {
    const own = [];
    if (stage.state && felt && !cached.has(stage.state) && extra.state) {
      own.push([stage.state, extra.state]);
    }
    for (const [modality, role] of stage.vectors) {
      if (!has(modality)) continue;
      const noisy = felt && stage.state ? extra.state_noisy : 0;
      own.push([role, modality === "action" ? sizes.chunk + extra.always + noisy : 1]);
    }
    if (extra.text && !cached.has("text")) own.unshift(["text", text]);
    parts.own = own;
  }
  return parts;
};

/** Keys that earlier passes left: tokens of a role. */
Explore.cachedTokens = (choice, sizes, counts, parts, role) => {
  const { latent, target } = sizes;
  const kind = Explore.base(role);
  const extra = counts.tokens ?? {};
  if (kind === "text") return parts.streamed || extra.text ? parts.text : 0;
  if (kind === "context") {
    const blank = counts.joins === "frames" ? Explore.slotFrames(choice, sizes, "context") : 0;
    return sizes.tokensOf(sizes.context + blank, latent.height, latent.width);
  }
  if (kind === "state") {
    if (!sizes.state) return 0;
    if (counts.joins === "frames") {
      const frames = Explore.slotFrames(choice, sizes, "state");
      return sizes.tokensOf(frames, latent.height, latent.width);
    }
    return counts.joins === "tokens" ? extra.state : 0;
  }
  return sizes.tokensOf(sizes.imagined, target.height, target.width);
};

/** Self-attention of one pass: operations and bytes, by the attention plan of every layer. */
Explore.attention = (choice, counts, parts, keys, prefill) => {
  const { traits } = Explore.part(choice, "backbone");
  const { sees } = Explore.plan(choice);
  const frames = parts.clips.map((clip) => clip.frames.map(([role, n]) => [role, n * clip.each]));
  const streams = [];
  frames.forEach((segments, i) => {
    if (i === 0 && parts.textNew) streams.push({ own: false, segments: [["text", parts.text]] });
    streams.push({ own: false, segments });
  });
  if (parts.own.length) streams.push({ own: true, segments: parts.own });
  const last = traits.depth - 1;
  const whole = !prefill || (counts.reads ?? []).includes(last);
  const layers = [...Array(traits.depth).keys()].filter((layer) => whole || layer !== last);
  const awake = new Set(parts.own.length ? counts.awake ?? [] : []);
  const cameras = Explore.cameras(choice);
  const views = cameras.layout === "clip_per_view" ? cameras.views.length : 1;
  const framed = new Set(frames.flat().map(([role]) => role)
    .filter((role) => ["context", "target"].includes(Explore.base(role))));
  const alone = !streams.some((stream) => !stream.own);
  const ownRoles = new Set(["state", ...(counts.tokens?.text ? ["text"] : [])]);
  const layer = (withOwn, apart) => {
    const present = {};
    const active = streams.filter((stream) => withOwn || !stream.own);
    for (const { segments } of active) {
      for (const [role, n] of segments) present[role] = (present[role] ?? 0) + n;
    }
    let [operations, moved] = [0, 0];
    for (const { segments } of active) {
      const groups = [];
      for (const [role, n] of segments) {
        const seen = (sees[role] ?? []).slice().sort();
        const found = [...new Set(seen)].filter(
          (r) => present[r] || (keys[r]
            && (withOwn || counts.joins !== "tokens" || !ownRoles.has(Explore.base(r)))),
        );
        const own = apart && framed.has(role) ? views : 1;
        const count = found.reduce((sum, r) => sum
          + (present[r] ?? keys[r]) / (own > 1 && framed.has(r) ? own : 1), 0);
        const name = found.join(" ");
        const before = groups.at(-1);
        if (own > 1) for (let i = 0; i < own; i += 1) groups.push({ name: i, n: n / own, count });
        else if (before && before.name === name) before.n += n;
        else groups.push({ name, n, count });
      }
      for (const { n, count } of groups) {
        operations += 4 * n * count * traits.num_heads * traits.head_dim;
        // Scores are counted, and all is in float32: so attention is written out on the meta device.
        moved += 8 * traits.num_heads * ((n + count) * traits.head_dim + n * count);
      }
    }
    return [operations, moved];
  };
  const known = {};
  const total = [0, 0];
  for (const place of layers) {
    const withOwn = awake.has(place);
    if (alone && !withOwn) continue;
    const apart = views > 1 && place % traits.cross_view_stride > 0;
    const [operations, moved] = known[[withOwn, apart]] ??= layer(withOwn, apart);
    total[0] += operations;
    total[1] += moved;
  }
  return total;
};

/** A polynomial of counts: what all samples of a batch share, and what each of them adds. */
Explore.polynomial = (places, row, shared) => {
  const { costs } = Explore.data.pools;
  const [operations, bytes] = places.map((place) => costs[place]);
  const own = row.map((x, i) => (shared.includes(i) ? 0 : x));
  const common = row.map((x, i) => (shared.includes(i) ? x : 0));
  return {
    operations: Explore.dot(operations, row),
    bytes: Explore.dot(bytes, own),
    shared: Explore.dot(bytes, common),
  };
};

/** Vectors that are read together: those that see the same roles. */
Explore.readViews = (choice, sizes, stage, parts) => {
  const { sees } = Explore.plan(choice);
  const views = new Map();
  for (const [modality, role] of stage.vectors) {
    if (!parts.vectors[modality]) continue;
    const seen = sees[role] ?? [];
    const block = role.slice(Explore.base(role).length);
    const name = `${seen.slice().sort().join(" ")}|${block}`;
    if (!views.has(name)) views.set(name, { seen, block, own: [] });
    views.get(name).own.push(modality);
  }
  for (const view of views.values()) {
    view.shown = ["action", "next_state", "value"].filter((modality) => parts.vectors[modality]
      && (view.own.includes(modality) || view.seen.includes(modality + view.block)));
  }
  return [...views.values()];
};

/** One stage: its passes, and the operations and bytes of each pass and of all. */
Explore.stageCost = (choice, sizes, stage, counts) => {
  const wide = Explore.isWide(choice);
  // Where the network was not counted in float32, that takes twice the bytes.
  const width = wide && !counts.float32 ? 2 : 1;
  const narrow = (wide ? 4 : 2) / width;
  const parts = Explore.stageParts(choice, sizes, stage, counts);
  const keys = {};
  for (const role of stage.cached) {
    const tokens = Explore.cachedTokens(choice, sizes, counts, parts, role);
    if (tokens) keys[role] = tokens;
  }
  const batch = stage.batch * (Explore.guided(choice) ? 2 : 1);
  const passes = Explore.passes(choice, stage);
  const sum = { operations: 0, bytes: 0, shared: 0 };
  const once = { operations: 0, bytes: 0, shared: 0 };
  const add = (to, found) => {
    for (const key of Object.keys(to)) to[key] += found[key];
  };
  const { chunk, action, state } = sizes;
  parts.clips.forEach((clip, i) => {
    const count = clip.frames.reduce((total, [, n]) => total + n, 0);
    const n = count * clip.each;
    const fresh = parts.textNew && i === 0;
    const kind = stage.prefill ? (fresh && counts.frames.first ? "first" : "kept")
      : (fresh && counts.frames.whole ? "whole" : "noisy");
    const row = [1, count, n, n * clip.each, n * parts.text, parts.text];
    add(sum, Explore.polynomial(counts.frames[kind], row, [0]));
    const { traits } = Explore.part(choice, "backbone");
    const vae = Explore.part(choice, "vae");
    if (vae.adapter === "linear") {
      const places = count * clip.size.height * clip.size.width * (stage.prefill ? 1 : 3);
      add(sum, {
        operations: 2 * places * vae.channels * traits.latent_channels,
        bytes: narrow * places * (vae.channels + traits.latent_channels),
        shared: 0,
      });
    }
  });
  const felt = Number(state > 0 && stage.state !== "");
  if (parts.own.length) {
    const n = parts.own.reduce((total, [, tokens]) => total + tokens, 0);
    if (stage.prefill) {
      const row = [1, n, n * parts.text, parts.text, state];
      add(sum, Explore.polynomial(counts.vectors.kept, row, [0, 4]));
    } else {
      const fresh = felt && (!parts.cached.has(stage.state) || counts.tokens.state_noisy) ? 1 : 0;
      const acts = Number(parts.vectors.action);
      const next = Number(parts.vectors.next_state);
      add(sum, Explore.polynomial(counts.vectors.noisy, [
        1, n, chunk * action * acts, action * acts, n * n, 0, 0, n * parts.text, parts.text,
        fresh, fresh * state, fresh * state * chunk, next, next * state,
        Number(parts.vectors.value),
      ], [0, 3, 9, 10, 12, 13, 14]));
    }
  }
  if (counts.joins === "reads" && stage.vectors.length) {
    for (const view of Explore.readViews(choice, sizes, stage, parts)) {
      const shown = (modality) => Number(view.shown.includes(modality));
      const frames = {};
      for (const clip of parts.clips) {
        for (const [role, n] of clip.frames) frames[role] = (frames[role] ?? 0) + n * clip.each;
      }
      if (parts.textNew) frames.text = parts.text;
      let read = 0;
      for (const role of view.seen) read += frames[role] ?? keys[role] ?? 0;
      const n = shown("action") * (chunk + counts.tokens.always) + felt * counts.tokens.state
        + shown("next_state") + shown("value");
      add(sum, Explore.polynomial(counts.vectors.noisy, [
        1, n, chunk * action * shown("action"), action * shown("action"), n * n, read, n * read,
        n * parts.text, parts.text, felt, felt * state, felt * state * chunk,
        shown("next_state"), shown("next_state") * state, shown("value"),
      ], [0, 3, 9, 10, 12, 13, 14]));
      const memory = Explore.polynomial(
        counts.vectors.memory, [1, read, parts.text, felt, felt * state], [0],
      );
      add(parts.clips.length ? sum : once, memory);
    }
  }
  const [attended, moved] = Explore.attention(choice, counts, parts, keys, stage.prefill);
  const whole = (found, more = [0, 0]) => ({
    operations: (found.operations + more[0]) * batch,
    bytes: (found.bytes * batch + found.shared) * width + more[1] * batch,
  });
  const pass = whole(sum, [attended, moved]);
  const start = whole(once);
  return {
    stage, parts, keys, batch, passes, pass, start,
    operations: passes * pass.operations + (passes ? start.operations : 0),
    bytes: passes * pass.bytes + (passes ? start.bytes : 0),
  };
};

/** Encoding what is observed. */
Explore.encoding = (choice, sizes) => {
  const vae = Explore.part(choice, "vae");
  if (!vae.encoding) return null;
  const [h, w] = [sizes.canvas.height / vae.stride[1], sizes.canvas.width / vae.stride[2]];
  const one = [1, h, w, h * w, h * w * h * w];
  const row = (frames) => [...one, ...one.map((x) => x * frames)];
  // In a clip of all views, the slots before the observed frames are black images.
  const shared = sizes.cameras.clip === "shared";
  let clips = [[sizes.seen, sizes.canvas.apart]];
  if (shared) clips = [[sizes.context + sizes.black, 1]];
  else if (sizes.alone) clips = [[1, sizes.canvas.apart * sizes.seen]];
  const sum = (spent) => clips.reduce(
    (total, [frames, count]) => total + Explore.dot(spent, row(frames)) * count, 0,
  );
  const weights = vae.encoding.bytes[0] + vae.encoding.bytes[one.length]; // read once
  const again = sizes.alone ? sizes.canvas.apart * (sizes.seen - 1) : 0;
  return {
    operations: sum(vae.encoding.operations), bytes: sum(vae.encoding.bytes) - weights * again,
  };
};

/** All stages of a chunk with their costs; null where they were not counted. */
Explore.cost = (choice) => {
  const sizes = Explore.sizes(choice);
  const found = Explore.counts(choice);
  const counts = found && Explore.isWide(choice) ? { ...found, ...found.float32 } : found;
  const encode = Explore.encoding(choice, sizes);
  if (!counts || !Explore.plan(choice)) return null;
  const stages = Explore.stages(choice, sizes)
    .map((stage) => Explore.stageCost(choice, sizes, stage, counts))
    .filter((found) => found.passes > 0);
  const guided = Explore.guided(choice) ? 2 : 1;
  const [operations, bytes] = sizes.state && counts.suffix ? counts.suffix : [0, 0];
  const width = Explore.isWide(choice) && !counts.float32 ? 2 : 1;
  const suffix = { operations: operations * guided, bytes: bytes * width };
  const total = { operations: suffix.operations, bytes: suffix.bytes, passes: 0 };
  for (const found of [...stages, ...(encode ? [encode] : [])]) {
    total.operations += found.operations;
    total.bytes += found.bytes;
    total.passes += found.passes ?? 0;
  }
  const whole = Explore.published(choice)?.cost[choice.mode] ?? null;
  return { sizes, counts, encode, stages, suffix, whole, total: whole ?? total };
};

/** Seconds that operations and bytes take at least on a device. */
Explore.floor = (device, dtype, operations, bytes) =>
  Math.max(operations / device[dtype], bytes / device.bandwidth);
