// Elements, and how quantities are written.
"use strict";

/** An element: attributes, then children; `on...` is a listener, `style` an object. */
Explore.el = (tag, attributes = {}, ...children) => {
  const svg = ["svg", "rect", "g", "path", "text", "line", "circle"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") {
      for (const [name, x] of Object.entries(value)) node.style.setProperty(name, x);
    } else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
};

Explore.fill = (id, ...children) => {
  const node = document.getElementById(id);
  node.replaceChildren(...children.flat().filter((child) => child !== null));
  return node;
};

/** Three digits. */
Explore.brief = (x) => {
  if (!Number.isFinite(x)) return "?";
  if (x === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(x))));
  return digits > 6 ? x.toExponential(1) : x.toFixed(Math.min(digits, 6));
};

Explore.scaled = (x, units) => {
  if (x === null || x === undefined) return "not counted";
  const found = units.find(([size]) => x >= size) ?? units.at(-1);
  return `${Explore.brief(x / found[0])}${found[1]}`;
};

Explore.count = (x) => Explore.scaled(x, [[1e9, "B"], [1e6, "M"], [1e3, "k"], [1, ""]]);
Explore.flops = (x) => Explore.scaled(
  x, [[1e15, " PFLOP"], [1e12, " TFLOP"], [1e9, " GFLOP"], [1e6, " MFLOP"], [1, " FLOP"]],
);
Explore.bytes = (x) => Explore.scaled(
  x, [[1e12, " TB"], [1e9, " GB"], [1e6, " MB"], [1e3, " kB"], [1, " B"]],
);
Explore.time = (seconds) => Explore.scaled(
  seconds, [[1, " s"], [1e-3, " ms"], [1e-6, " µs"], [1e-9, " ns"]],
);
Explore.whole = (x) => x.toLocaleString("en-US");

Explore.meanings = {
  text: "tokens of the prompt",
  context: "latent frames that are observed",
  target: "latent frames that are imagined",
  state: "the robot's state",
  action: "the actions of the chunk",
  next_state: "the state when the chunk is done",
  value: "how well it goes from there",
};

Explore.meaning = (role) => {
  const family = Explore.family(role);
  const block = role.split(".")[1];
  const parts = [Explore.meanings[family]];
  if (role.endsWith("'")) parts.push("a clean or noised copy");
  if (["seen", "did"].includes(Explore.base(role))) parts.push("a clean copy");
  if (block) parts.push(`of block ${block}`);
  return parts.join(", ");
};

Explore.swatch = (role) => Explore.el("span", {
  class: `swatch role-${Explore.family(role)}`, "aria-hidden": "true",
});

Explore.label = (part) => [part.variant ?? part.name, part.origin && `as in ${part.origin}`]
  .filter(Boolean).join(", ");
Explore.longLabel = (part) => [part.name, part.variant].filter(Boolean).join(" ")
  + (part.origin ? `, as in ${part.origin}` : "");
