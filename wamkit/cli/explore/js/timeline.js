// One call, step by step: what runs once, what iterates, what is looked up.
"use strict";

Explore.step = 0;
Explore.playing = null;

/** Every step of a call, in order. */
Explore.steps = (choice, cost) => {
  if (!cost) return [];
  const { sizes, stages } = cost;
  const text = Explore.part(choice, "text_encoder");
  const { traits } = Explore.part(choice, "backbone");
  const reads = { cross: "keys and values of every block's cross-attention are kept with it",
    stream: "its tokens enter the stream of the blocks", none: "the action head alone reads it" };
  const found = [
    {
      title: "Embed the prompt", often: "once per prompt", seconds: 0, stage: -2,
      blocks: [["text", text.max_tokens]], cached: [], kept: ["text"],
      detail: `${text.name}: ${text.max_tokens} tokens of width ${text.width}; ${reads[traits.text]}.`,
    },
    {
      title: "Encode the images", often: "once per chunk", stage: -1,
      found: cost.encode, blocks: [["context", sizes.context]], cached: [], kept: [],
      detail: `${Explore.part(choice, "vae").name}: ${sizes.observed} image${sizes.observed > 1 ? "s" : ""} `
        + `of ${sizes.canvas.height}x${sizes.canvas.width} to ${sizes.context} latent frame`
        + `${sizes.context > 1 ? "s" : ""} of ${sizes.latent.channels}x${sizes.latent.height}x${sizes.latent.width}.`,
    },
  ];
  const noise = Explore.noise(choice, stages);
  stages.forEach((one, place) => {
    const { stage, parts, keys, passes, batch, pass } = one;
    const blocks = [];
    if (parts.textNew) blocks.push(["text", parts.text]);
    for (const clip of parts.clips) {
      for (const [role, n] of clip.frames) blocks.push([role, n * clip.each]);
    }
    blocks.push(...parts.own);
    if (!parts.own.length && cost.counts.joins === "reads") {
      for (const [modality, role] of stage.vectors) {
        if (parts.vectors[modality]) blocks.push([role, modality === "action" ? sizes.chunk : 1]);
      }
    }
    const kept = stage.prefill ? blocks.map(([role]) => role) : [];
    for (let i = 0; i < passes; i += 1) {
      found.push({
        title: stage.does, stage: place, found: pass, blocks, batch, kept,
        cached: Object.entries(keys), place: i, passes,
        often: stage.prefill ? "once per chunk, kept" : `step ${i + 1} of ${passes}`,
        levels: noise[place][i],
        detail: stage.prefill
          ? "A pass for its keys and values alone: later passes look them up."
          : "Noise levels go down; what was looked up stays as it is.",
      });
    }
  });
  return found;
};

Explore.block = ([role, tokens], most, note = null) => Explore.el("li", {
  class: `block role-${Explore.family(role)}`,
  style: { "--size": `${Math.round(34 + 150 * Math.sqrt(tokens / most))}px` },
  title: Explore.meaning(role),
}, Explore.el("span", { class: "block-name" }, role),
Explore.el("span", { class: "block-count" }, `${Explore.whole(tokens)}${note ?? ""}`));

/** How noisy a role is in a step: between 0 and 1. */
Explore.noiseOf = (step, role) => (role.endsWith("'") ? 0
  : step.levels?.[{ target: "video" }[Explore.base(role)] ?? Explore.base(role)] ?? 0);

/** The noise level of everything that is denoised in a step. */
Explore.noiseBars = (step) => Object.entries(step.levels ?? {}).map(([modality, level]) => Explore.el(
  "div", { class: `noise role-${modality === "video" ? "target" : modality}` },
  Explore.el("span", {}, `noise in ${modality.replace("_", " ")}`),
  Explore.el("span", { class: "noise-bar" },
    Explore.el("span", { class: "noise-fill", style: { width: `${100 * level}%` } })),
  Explore.el("span", { class: "noise-level" }, level.toFixed(3)),
));

Explore.drawTimeline = (choice, cost) => {
  const { el } = Explore;
  const steps = Explore.steps(choice, cost);
  const host = document.getElementById("timeline");
  if (!steps.length) {
    Explore.fill("lanes");
    Explore.fill("scene", el("p", { class: "note" }, "Choose parts that fit to see what runs."));
    document.getElementById("step-label").textContent = "";
    host.classList.add("empty");
    return;
  }
  host.classList.remove("empty");
  Explore.step = Math.min(Explore.step, steps.length - 1);
  const now = steps[Explore.step];
  const times = Explore.latency(choice, cost, Explore.device());
  const lanes = [["encode", times.encode, -1, 1],
    ...cost.stages.map((one, i) => [one.stage.does, times.stages[i], i, one.passes])];
  Explore.fill("lanes", lanes.map(([title, seconds, stage, passes]) => {
    const first = steps.findIndex((step) => step.stage === stage);
    const families = stage < 0 ? ["context"] : [...new Set(steps[first].blocks.map(([r]) => Explore.family(r)))];
    const main = families.includes("action") ? "action" : families.includes("target") ? "target" : families.at(-1);
    return el("button", {
      type: "button", tabindex: "-1", "aria-hidden": "true",
      class: `lane role-${main} ${now.stage === stage ? "current" : ""}`,
      style: { "flex-grow": Math.max((1000 * seconds) / times.total, 20) },
      title: `${title}: ${passes} pass${passes > 1 ? "es" : ""}, at least ${Explore.time(seconds)}`,
      onclick: () => Explore.goTo(first),
    }, el("span", { class: "lane-name" }, passes > 1 ? `\u00d7${passes}` : "1"),
    now.stage === stage ? el("span", {
      class: "lane-now", style: { left: `${(100 * ((now.place ?? 0) + 0.5)) / passes}%` },
    }) : null);
  }));
  const slider = document.getElementById("slider");
  slider.max = steps.length - 1;
  slider.value = Explore.step;
  slider.setAttribute("aria-valuetext", `${now.title}, ${now.often}`);
  document.getElementById("step-label").textContent = `${Explore.step + 1} / ${steps.length}`;
  // Not `disabled`: a button that is loses the focus, and with it the keyboard.
  document.getElementById("previous").setAttribute("aria-disabled", Explore.step === 0);
  document.getElementById("next").setAttribute("aria-disabled", Explore.step === steps.length - 1);
  const most = Math.max(...steps.flatMap((s) => [...s.blocks, ...s.cached]).map(([, n]) => n), 1);
  const shelf = [];
  const seen = new Map();
  for (const step of steps.slice(0, Explore.step + 1)) {
    for (const [role, n] of step.blocks) if (step.kept.includes(role) && n) seen.set(role, n);
  }
  const looked = new Set(now.cached.map(([role]) => role));
  if (now.stage !== -2 && Explore.part(choice, "backbone").traits.text === "cross") looked.add("text");
  for (const [role, n] of seen) {
    const item = Explore.block([role, n], most);
    if (looked.has(role)) item.classList.add("looked-up");
    shelf.push(item);
  }
  const work = now.found ? `${Explore.flops(now.found.operations)}, ${Explore.bytes(now.found.bytes)}, `
    + `at least ${Explore.time(Explore.floor(Explore.device(), Explore.dtypeOf(choice), now.found.operations, now.found.bytes))}` : "";
  const { traits } = Explore.part(choice, "backbone");
  const through = now.stage === -2 ? Explore.part(choice, "text_encoder").name
    : now.stage === -1 ? Explore.part(choice, "vae").name
      : now.blocks.every(([role]) => Explore.family(role) === "action" || ["state", "value", "next_state"].includes(Explore.family(role)))
        && cost.counts.joins !== "frames" ? `${Explore.part(choice, "action_head").name}` : Explore.part(choice, "backbone").name;
  const layers = now.stage >= 0 && through === Explore.part(choice, "backbone").name ? `${traits.depth} layers` : "";
  Explore.fill("scene",
    el("div", { class: "scene-head" },
      el("h3", {}, now.title), el("span", { class: "badge" }, now.often),
      now.batch > 1 ? el("span", { class: "badge" }, `batch of ${now.batch}`) : null),
    el("div", { class: "flow" },
      el("div", { class: "column" }, el("h4", {}, "In this pass"),
        el("ul", { class: "blocks entering" }, now.blocks.filter(([, n]) => n).map(
          (one) => Explore.block(one, most, Explore.noiseOf(now, one[0]) > 0 ? " noisy" : ""),
        )),
        Explore.noiseBars(now)),
      el("div", { class: "arrow", "aria-hidden": "true" }, "\u2192"),
      el("div", { class: "column network" }, el("h4", {}, through),
        el("div", { class: `stack ${now.stage >= 0 ? "running" : ""}` },
          Array.from({ length: 6 }, () => el("span", { class: "sheet" }))),
        el("p", { class: "note" }, layers)),
      el("div", { class: "arrow", "aria-hidden": "true" }, now.stage >= 0 && looked.size ? "\u2190" : "\u2192"),
      el("div", { class: "column" }, el("h4", {}, "Kept so far"),
        shelf.length ? el("ul", { class: "blocks shelf" }, shelf) : el("p", { class: "note" }, "nothing yet"))),
    el("p", { class: "detail" }, now.detail, work ? el("span", { class: "work" }, ` ${work}`) : null));
};

Explore.goTo = (step) => {
  Explore.step = Math.max(0, step);
  Explore.redraw("timeline");
};

Explore.stop = () => {
  if (Explore.playing) clearInterval(Explore.playing);
  Explore.playing = null;
  document.getElementById("play").textContent = "Play";
};

Explore.play = () => {
  if (Explore.playing) {
    Explore.stop();
    return;
  }
  document.getElementById("play").textContent = "Pause";
  const last = () => Number(document.getElementById("slider").max);
  if (Explore.step >= last()) Explore.goTo(0);
  Explore.playing = setInterval(() => {
    if (Explore.step >= last()) Explore.stop();
    else Explore.goTo(Explore.step + 1);
  }, 900);
};

Explore.bindTimeline = () => {
  const on = (id, event, act) => document.getElementById(id).addEventListener(event, act);
  const move = (by) => {
    Explore.stop();
    const last = Number(document.getElementById("slider").max);
    Explore.goTo(Math.min(last, Explore.step + by));
  };
  on("previous", "click", () => move(-1));
  on("next", "click", () => move(1));
  on("play", "click", Explore.play);
  on("slider", "input", (event) => {
    Explore.stop();
    Explore.goTo(Number(event.target.value));
  });
  on("timeline", "keydown", (event) => {
    if (event.target.id === "slider") return;
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const to = { Home: 0, End: Number(document.getElementById("slider").max) }[event.key];
    if (by === undefined && to === undefined) return;
    event.preventDefault();
    if (by) move(by);
    else {
      Explore.stop();
      Explore.goTo(to);
    }
  });
};
