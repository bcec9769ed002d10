// Who attends to whom, by role, at the layers where the head has blocks and where it rests.
"use strict";

Explore.range = 0;

/** Tokens of a role that may be a copy, or one of several blocks. */
Explore.roleTokens = (choice, role) => Explore.tokens(choice)[Explore.family(role)] ?? 0;

/** Ranges of layers that differ in who has blocks. */
Explore.layerRanges = (choice) => {
  const { traits } = Explore.part(choice, "backbone");
  const counts = Explore.counts(choice);
  const awake = counts?.awake;
  const all = { title: `all ${traits.depth} layers`, own: true };
  if (!awake || awake.length === traits.depth) return [all];
  const listed = (layers) => {
    const runs = [];
    for (const layer of layers) {
      const last = runs.at(-1);
      if (last && last[1] === layer - 1) last[1] = layer;
      else runs.push([layer, layer]);
    }
    return runs.map(([a, b]) => (a === b ? `${a}` : `${a}\u2013${b}`)).join(", ");
  };
  const rest = [...Array(traits.depth).keys()].filter((layer) => !awake.includes(layer));
  return [
    { title: `layers ${listed(awake)}, where the head has blocks`, own: true },
    { title: `layers ${listed(rest)}, where it rests`, own: false },
  ];
};

Explore.drawAttention = (choice) => {
  const { el } = Explore;
  const plan = Explore.plan(choice);
  if (!plan) {
    Explore.fill("ranges");
    Explore.fill("attention");
    document.getElementById("attention-note").textContent = "These parts have no common table: see the reasons above.";
    return;
  }
  const { traits } = Explore.part(choice, "backbone");
  const head = Explore.part(choice, "action_head");
  const ranges = Explore.layerRanges(choice);
  Explore.range = Math.min(Explore.range, ranges.length - 1);
  const range = ranges[Explore.range];
  Explore.fill("ranges", ranges.length < 2 ? el("span", { class: "note" }, range.title)
    : ranges.map((one, i) => el("button", {
      type: "button", "aria-pressed": String(i === Explore.range),
      onclick: () => {
        Explore.range = i;
        Explore.redraw("attention");
      },
    }, one.title)));
  const own = ["action", "next_state", "value", "state", "did"];
  const order = (role) => Explore.roles.indexOf(Explore.family(role));
  const textInside = traits.text === "stream" || Explore.counts(choice)?.tokens?.text;
  const present = Object.keys(plan.sees)
    .filter((role) => (role !== "text" || textInside))
    .filter((role) => range.own || !own.includes(Explore.base(role)))
    .filter((role) => Explore.roleTokens(choice, role) > 0)
    .sort((a, b) => order(a) - order(b) || a.localeCompare(b, "en", { numeric: true }));
  const sees = (row, column) => plan.sees[row].includes(column);
  const caption = document.getElementById("attention-note");
  const usual = "A row attends to the columns that are filled. Point at a role, or move to it with Tab.";
  caption.textContent = usual;
  const table = el("table", { class: "attention" });
  const tell = (row, column) => {
    const seen = present.filter((role) => sees(row, role));
    const keys = seen.reduce((sum, role) => sum + Explore.roleTokens(choice, role), 0);
    const n = Explore.roleTokens(choice, row);
    const lead = `${row} (${Explore.meaning(row)}, ${Explore.whole(n)} tokens)`;
    caption.textContent = column
      ? `${lead} ${sees(row, column) ? "attends to" : "does not attend to"} ${column} (${Explore.meaning(column)}).`
      : `${lead} attends to ${seen.join(", ") || "nothing"}: ${Explore.whole(keys)} keys, ${Explore.whole(n * keys)} pairs a layer and head.`;
    for (const cell of table.querySelectorAll("[data-row]")) {
      cell.classList.toggle("lit", cell.dataset.row === row || cell.dataset.column === column);
    }
  };
  const calm = () => {
    caption.textContent = usual;
    for (const cell of table.querySelectorAll(".lit")) cell.classList.remove("lit");
  };
  table.append(
    el("thead", {}, el("tr", {}, el("td", {}), present.map((role) => el("th", { scope: "col", class: "turned" },
      el("span", {}, Explore.swatch(role), role))), el("th", { scope: "col", class: "number" }, "keys"))),
    el("tbody", {}, present.map((row) => {
      const keys = present.filter((role) => sees(row, role))
        .reduce((sum, role) => sum + Explore.roleTokens(choice, role), 0);
      return el("tr", {},
        el("th", {
          scope: "row", tabindex: "0", "data-row": row,
          onmouseenter: () => tell(row), onfocus: () => tell(row), onmouseleave: calm, onblur: calm,
        }, Explore.swatch(row), row, el("small", {}, ` ${Explore.whole(Explore.roleTokens(choice, row))}`)),
        present.map((column) => el("td", {
          "data-row": row, "data-column": column,
          class: sees(row, column) ? `seen role-${Explore.family(column)}` : "unseen",
          onmouseenter: () => tell(row, column), onmouseleave: calm,
        }, el("span", { class: "hidden" }, sees(row, column) ? "yes" : "no"))),
        el("td", { class: "number" }, Explore.whole(keys)));
    })));
  Explore.fill("attention", table);
  const notes = [];
  if (!textInside) {
    notes.push(traits.text === "cross"
      ? "The text is read by cross-attention inside every block."
      : "The backbone reads no text; the action head reads it.");
  }
  if (!head.exposes_tokens) {
    const counts = Explore.counts(choice);
    notes.push(`${head.name} reads hidden states${counts?.reads ? ` of ${counts.reads.length} layers` : ""}: `
      + "its rows are what it reads, and no other token attends to it.");
  }
  document.getElementById("attention-more").textContent = notes.join(" ");
};
