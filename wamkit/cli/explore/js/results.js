// The verdict, the figures, and what each stage and each part costs.
"use strict";

Explore.cureButton = (choice, hint, change) => {
  const cured = Explore.cured(choice, hint);
  return cured ? Explore.el("button", {
    type: "button", class: "apply", "aria-label": `Apply: ${hint}`, onclick: () => change(cured),
  }, "Apply") : null;
};

Explore.drawVerdict = (choice, conflicts, change) => {
  const cautions = Explore.cautions(choice);
  const missing = Explore.missing(choice);
  const { el } = Explore;
  const ok = !conflicts.length;
  const whole = Explore.published(choice);
  const gone = Explore.leftOut(choice);
  const listed = (names) => names.flatMap((name, i) => [i ? ", " : "", el("code", {}, name)]);
  const box = Explore.fill("verdict",
    el("h2", { class: "verdict-title" },
      el("span", { class: "mark", "aria-hidden": "true" }, ok ? "\u2713" : "\u2717"),
      ok ? "It fits" : `It does not fit: ${conflicts.length} reason${conflicts.length > 1 ? "s" : ""}`),
    conflicts.length ? el("ul", { class: "reasons" }, conflicts.map(({ between, why, hint }) => el("li", {},
      el("p", {}, el("code", {}, between.join(" + ")), ` ${why}`),
      el("p", { class: "cure" }, el("strong", {}, "Cure: "), hint, " ",
        Explore.cureButton(choice, hint, change))))) : null,
    cautions.length ? el("ul", { class: "cautions" }, cautions.map(({ why, hint }) => el("li", {},
      el("p", {}, el("strong", {}, "Note: "), why), el("p", { class: "cure" }, hint)))) : null,
    whole ? el("p", { class: "note brought" }, "This page does not follow ",
      listed(whole.options), ". The verdict, tokens, parameters and totals are those that wamkit "
        + "computes of the system as it is; the steps of a call and the attention are shown "
        + "without these options. Changing a part or a size leaves them out.") : null,
    gone.length ? el("p", { class: "note brought" }, "Left out of the system that you began with: ",
      listed(gone), ". This page does not follow these options.") : null,
    missing.length ? el("p", { class: "note" },
      `Not installed where this page was made: ${missing.map((m) => `${m.name} (${m.what})`).join("; ")}`) : null);
  box.className = `card verdict ${ok ? "good" : "bad"}`;
};

Explore.device = () => Explore.data.devices.find(
  ({ id }) => id === document.getElementById("device").value,
);

Explore.dtypeOf = (choice) => choice.raw.dtype ?? Explore.data.defaults.dtype;

/** The least seconds of a chunk on a device, stage by stage. */
Explore.latency = (choice, cost, device) => {
  const floor = (found) => Explore.floor(
    device, Explore.dtypeOf(choice), found.operations, found.bytes,
  );
  const encode = cost.encode ? floor(cost.encode) : 0;
  const stages = cost.stages.map(({ pass, passes, start }) => passes * floor(pass) + floor(start));
  if (cost.whole) return { encode, stages, total: floor(cost.whole) };
  return { encode, stages, total: encode + stages.reduce((a, b) => a + b, floor(cost.suffix)) };
};

Explore.drawFigures = (choice, cost) => {
  const { el } = Explore;
  const parameters = Object.values(Explore.parameters(choice));
  const known = parameters.filter((x) => x !== null).reduce((a, b) => a + b, 0);
  const tokens = Object.values(Explore.tokens(choice)).reduce((a, b) => a + b, 0);
  const device = Explore.device();
  const seconds = cost ? Explore.latency(choice, cost, device).total : null;
  const tile = (label, value, note) => el("div", { class: "tile" },
    el("dt", {}, label), el("dd", {}, value), el("dd", { class: "note" }, note));
  const hz = choice.raw.actions.control_hz ?? Explore.data.defaults.actions.control_hz;
  const span = Explore.sizes(choice).chunk / hz;
  Explore.fill("figures",
    tile("Parameters", Explore.count(known),
      parameters.includes(null) ? "of the parts that were counted" : "all parts"),
    tile("Tokens", Explore.whole(tokens), "of all roles, in one full pass"),
    tile("Passes", cost ? Explore.whole(cost.total.passes) : "?", "of the network for a chunk"),
    tile("Work", cost ? Explore.flops(cost.total.operations) : "?", "for a chunk, VAE included"),
    tile("Moved", cost ? Explore.bytes(cost.total.bytes) : "?", "read and written for a chunk"),
    tile(`At least, on ${device.name}`, seconds === null ? "?" : Explore.time(seconds),
      `for actions of ${Explore.brief(span)} s`));
};

Explore.bar = (share, role) => Explore.el("span", { class: "bar", "aria-hidden": "true" },
  Explore.el("span", {
    class: `bar-fill ${role ? `role-${role}` : ""}`,
    style: { width: `${Math.max(0.5, 100 * share)}%` },
  }));

Explore.drawTokens = (choice) => {
  const { el } = Explore;
  const tokens = Explore.tokens(choice);
  const most = Math.max(...Object.values(tokens), 1);
  Explore.fill("tokens", Explore.roles.filter((role) => tokens[role]).map((role) => el("tr", {},
    el("th", { scope: "row" }, Explore.swatch(role), role),
    el("td", { class: "number" }, Explore.whole(tokens[role])),
    el("td", { class: "wide" }, Explore.bar(tokens[role] / most, role)))));
  const { latent, target, context, imagined, canvas, stride } = Explore.sizes(choice);
  document.getElementById("sizes").textContent = `Canvas ${canvas.height}x${canvas.width} pixels`
    + `${canvas.apart > 1 ? `, ${canvas.apart} of them` : ""}; latents of ${latent.channels} channels, `
    + `${latent.height}x${latent.width}; ${context} observed frames and ${imagined} imagined `
    + `(${target.height}x${target.width}); ${stride[0]} image${stride[0] > 1 ? "s" : ""} make one.`;
};

Explore.uncounted = (choice, kind) => {
  const { uncounted } = Explore.part(choice, kind);
  return uncounted?.startsWith("kept by reference") ? "kept by reference" : "not counted";
};

Explore.drawParameters = (choice) => {
  const { el } = Explore;
  const found = Explore.parameters(choice);
  const most = Math.max(...Object.values(found).map((x) => x ?? 0), 1);
  Explore.fill("parameters", Explore.kinds.map((kind) => el("tr", {},
    el("th", { scope: "row" }, Explore.titles[kind]),
    el("td", { class: "number" }, 
      found[kind] === null ? Explore.uncounted(choice, kind) : Explore.count(found[kind])),
    el("td", { class: "wide" }, Explore.bar((found[kind] ?? 0) / most)))));
  const { license, source } = Explore.part(choice, "backbone");
  document.getElementById("license").textContent = `License of the backbone's weights: ${license}. `
    + (source ? `From ${source}.` : "");
};

Explore.drawCosts = (choice, cost) => {
  const { el } = Explore;
  if (!cost) {
    Explore.fill("costs", el("tr", {}, el("td", { colspan: 6 },
      Explore.plan(choice) ? "Passes of this backbone with this head were not counted; "
        + "`wamkit explore SPEC` counts those of a spec." : "Nothing runs: see the reasons above.")));
    Explore.fill("devices");
    return;
  }
  const times = Explore.latency(choice, cost, Explore.device());
  const row = (title, passes, tokens, found, seconds) => el("tr", {},
    el("th", { scope: "row" }, title),
    el("td", { class: "number" }, passes), el("td", { class: "number" }, tokens),
    el("td", { class: "number" }, Explore.flops(found.operations)),
    el("td", { class: "number" }, Explore.bytes(found.bytes)),
    el("td", { class: "number" }, Explore.time(seconds)));
  const tokensOf = ({ parts, batch }) => {
    const frames = parts.clips.reduce((sum, clip) => sum
      + clip.frames.reduce((all, [, n]) => all + n * clip.each, 0), 0);
    const own = parts.own.reduce((sum, [, n]) => sum + n, 0);
    const all = frames + own + (parts.textNew ? parts.text : 0);
    return Explore.whole(all) + (batch > 1 ? ` \u00d7 ${batch}` : "");
  };
  Explore.fill("costs",
    cost.encode && !cost.whole
      ? row("encode what is observed", "1", "", cost.encode, times.encode) : null,
    cost.whole ? null : cost.stages.map((found, i) => row(found.stage.does, Explore.whole(found.passes),
      tokensOf(found), found, times.stages[i])),
    row("together", Explore.whole(cost.total.passes), "", cost.total, times.total));
  const all = Explore.data.devices.map((device) => [device, Explore.latency(choice, cost, device).total]);
  const most = Math.max(...all.map(([, seconds]) => seconds));
  const dtype = Explore.dtypeOf(choice);
  const weights = Object.entries(Explore.parameters(choice))
    .filter(([kind]) => kind !== "text_encoder")
    .reduce((sum, [, x]) => sum + (x ?? 0), 0) * (dtype === "float32" ? 4 : 2);
  Explore.fill("devices", all.sort((a, b) => a[1] - b[1]).map(([device, seconds]) => el("tr", {
    class: device.id === Explore.device().id ? "current" : null,
  },
    el("th", { scope: "row" }, device.name),
    el("td", { class: "number" }, Explore.time(seconds)),
    el("td", { class: "wide" }, Explore.bar(seconds / most)),
    el("td", {}, weights < device.memory ? `${Explore.brief((100 * weights) / device.memory)} %`
      : "too small"))));
};

Explore.drawSystems = (choice, change) => {
  const { el } = Explore;
  const device = Explore.device();
  Explore.fill("systems", Explore.data.presets.map((preset, i) => {
    const other = Explore.fromPreset(i);
    const cost = Explore.cost(other);
    const parameters = Explore.parameters(other);
    const known = ["backbone", "action_head", "vae"].reduce((sum, kind) => sum + (parameters[kind] ?? 0), 0);
    const names = ["backbone", "action_head", "paradigm"].map((kind) => Explore.part(other, kind).name);
    return el("tr", { class: i === choice.preset ? "current" : null },
      el("th", { scope: "row" }, el("button", { type: "button", class: "link", onclick: () => change(other) },
        preset.name.replaceAll("_", " "))),
      el("td", {}, names.join(" \u00b7 ")),
      el("td", { class: "number" }, Explore.count(known)),
      el("td", { class: "number" }, cost ? Explore.whole(cost.total.passes) : "?"),
      el("td", { class: "number" }, cost ? Explore.flops(cost.total.operations) : "?"),
      el("td", { class: "number" }, cost ? Explore.bytes(cost.total.bytes) : "?"),
      el("td", { class: "number" }, cost ? Explore.time(Explore.latency(other, cost, device).total) : "?"));
  }));
};
