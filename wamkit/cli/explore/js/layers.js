// Who attends to whom at which layers: ranges of layers that differ, and the table of each.
"use strict";

Explore.roles = ["text", "context", "target", "state", "action", "next_state", "value"];

/** The family of a role: copies and blocks have the color of what they copy. */
Explore.family = (role) => {
  const name = Explore.base(role);
  if (Explore.roles.includes(name)) return name;
  return { seen: "target", did: "action" }[name] ?? "value";
};

/** Tokens of a role that may be a copy, or one of several blocks. */
Explore.roleTokens = (choice, role) => Explore.tokens(choice)[Explore.family(role)] ?? 0;

/** Whether the tokens of a role are the head's own. */
Explore.isOwn = (choice, role) => {
  const family = Explore.family(role);
  if (family === "text") return Explore.part(choice, "backbone").traits.text !== "stream";
  return !["context", "target"].includes(family);
};

/** Ranges of layers that differ in whether the head takes part: it has blocks there, or reads them. */
Explore.layerRanges = (choice) => {
  const { traits } = Explore.part(choice, "backbone");
  const counts = Explore.counts(choice);
  const all = [...Array(traits.depth).keys()];
  const joined = counts?.awake ?? counts?.reads ?? all;
  return [[joined, true], [all.filter((layer) => !joined.includes(layer)), false]]
    .filter(([layers]) => layers.length)
    .map(([layers, own]) => ({ layers, own, reads: Boolean(counts?.reads), known: counts !== null }));
};

/** Layers in words: 1, 3 to 7. */
Explore.listedLayers = (layers) => {
  const runs = [];
  for (const layer of layers) {
    const last = runs.at(-1);
    if (last && last[1] === layer - 1) last[1] = layer;
    else runs.push([layer, layer]);
  }
  const listed = runs.map(([a, b]) => (a === b ? `${a}` : `${a}\u2013${b}`)).join(", ");
  return `layer${layers.length > 1 ? "s" : ""} ${listed}`;
};

Explore.rangeTitle = (choice, { layers, own, reads, known }) => {
  const { depth } = Explore.part(choice, "backbone").traits;
  const whole = layers.length === depth;
  const which = whole ? `all ${depth} layers` : Explore.listedLayers(layers);
  if (reads) return `${which}, which the head ${own ? "reads" : "does not read"}`;
  if (!known) return `${which}; at which the head takes part was not counted`;
  if (whole) return which;
  return `${which}, ${own ? "where the head has blocks" : "where it rests"}`;
};

/** The table at a range of layers: its rows, its columns, and what each row attends to. */
Explore.attentionTable = (choice, { own }) => {
  const sees = Explore.published(choice)?.sees ?? Explore.plan(choice).sees;
  const { exposes_tokens: exposed } = Explore.part(choice, "action_head");
  const isOwn = (role) => Explore.isOwn(choice, role);
  const hasText = Explore.part(choice, "backbone").traits.text === "stream"
    || Boolean(Explore.counts(choice)?.tokens?.text);
  const order = (role) => Explore.roles.indexOf(Explore.family(role));
  const present = Object.keys(sees)
    .filter((role) => (role !== "text" || hasText) && (own || !isOwn(role)))
    .sort((a, b) => order(a) - order(b) || a.localeCompare(b, "en", { numeric: true }));
  const columns = present.filter((role) => Explore.roleTokens(choice, role) > 0);
  // A head that reads may read a vector off what it has pooled, with no token for it.
  const predicted = Explore.predicts(choice, Explore.sizes(choice));
  const rows = present.filter((role) => columns.includes(role)
    || (!exposed && predicted.includes(Explore.base(role)) && !role.endsWith("'")));
  const attends = (row, column) => sees[row].includes(column)
    && (exposed || isOwn(row) || !isOwn(column));
  const seen = Object.fromEntries(
    rows.map((row) => [row, columns.filter((column) => attends(row, column))]),
  );
  return { rows, columns, seen };
};
