// What fits with what: every head under every paradigm, and every backbone, VAE and text encoder.
"use strict";

Explore.allSettings = false;

Explore.drawMap = (choice, change) => {
  const { el } = Explore;
  const { parts } = Explore.data;
  const shown = (kind) => parts[kind].map((part, i) => [part, i])
    .filter(([part, i]) => Explore.allSettings || !part.origin || i === choice.parts[kind]);
  const heads = shown("action_head");
  const paradigms = shown("paradigm");
  const name = (part) => (part.origin ? `${part.name} (${part.origin.replaceAll("_", " ")})` : part.name);
  let [fitting, count] = [0, 0];
  const rows = heads.map(([head, h]) => el("tr", {},
    el("th", { scope: "row" }, name(head)),
    paradigms.map(([paradigm, p]) => {
      const other = Explore.withPart(Explore.withPart(choice, "action_head", h), "paradigm", p);
      const found = Explore.conflicts(other);
      count += 1;
      fitting += Number(!found.length);
      const current = h === choice.parts.action_head && p === choice.parts.paradigm;
      const why = found.length ? found.map(({ why: text }) => text).join("; ") : "fits";
      return el("td", {}, el("button", {
        type: "button", title: `${name(head)} \u00b7 ${name(paradigm)}: ${why}`,
        "aria-label": `${name(head)} under ${name(paradigm)}: ${why}`,
        "aria-current": current ? "true" : null,
        class: `cell ${found.length ? "bad" : "good"} ${current ? "current" : ""}`,
        onclick: () => change(other),
      }, found.length ? "\u2717" : "\u2713"));
    })));
  Explore.fill("map",
    el("thead", {}, el("tr", {}, el("td", {}), paradigms.map(([paradigm]) => el(
      "th", { scope: "col", class: "turned" }, el("span", {}, name(paradigm)),
    )))), el("tbody", {}, rows));
  document.getElementById("map-note").textContent = `${fitting} of ${count} heads and paradigms fit `
    + `${Explore.longLabel(Explore.part(choice, "backbone"))} at these sizes. Choose a cell to go there.`;
  Explore.fill("chips", ["backbone", "vae", "text_encoder"].map((kind) => el("div", { class: "chip-row" },
    el("h4", {}, Explore.titles[kind]),
    el("div", { class: "chip-list" }, shown(kind).map(([part, i]) => {
      const other = Explore.replaced(choice, kind, i);
      const found = Explore.conflicts(other);
      const why = found.length ? found.map(({ why: text }) => text).join("; ") : "fits";
      return el("button", {
        type: "button", title: why, "aria-label": `${Explore.longLabel(part)}: ${why}`,
        "aria-current": i === choice.parts[kind] ? "true" : null,
        class: `chip ${found.length ? "bad" : "good"} ${i === choice.parts[kind] ? "current" : ""}`,
        onclick: () => change(other),
      }, part.variant && kind === "backbone" ? `${part.name} ${part.variant}` : Explore.longLabel(part));
    })))));
};
