// Who attends to whom, by role, at the layers where the head has blocks and where it rests.
"use strict";

Explore.range = 0;

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
  Explore.fill("ranges", ranges.length < 2 ? el("span", { class: "note" }, Explore.rangeTitle(choice, range))
    : ranges.map((one, i) => el("button", {
      type: "button", "aria-pressed": String(i === Explore.range),
      onclick: () => {
        Explore.range = i;
        Explore.redraw("attention");
      },
    }, Explore.rangeTitle(choice, one))));
  const { rows, columns, seen } = Explore.attentionTable(choice, range);
  const sees = (row, column) => seen[row].includes(column);
  const keysOf = (row) => seen[row].reduce((sum, role) => sum + Explore.roleTokens(choice, role), 0);
  const caption = document.getElementById("attention-note");
  const usual = "A row attends to the columns that are filled. Point at a role, or move to it with Tab.";
  caption.textContent = usual;
  const table = el("table", { class: "attention" });
  const tell = (row, column) => {
    const keys = keysOf(row);
    const n = Explore.roleTokens(choice, row);
    const lead = `${row} (${Explore.meaning(row)}, ${n ? Explore.whole(n) : "no"} tokens)`;
    const pairs = n ? `, ${Explore.whole(n * keys)} pairs a layer and head` : "";
    caption.textContent = column
      ? `${lead} ${sees(row, column) ? "attends to" : "does not attend to"} ${column} (${Explore.meaning(column)}).`
      : `${lead} attends to ${seen[row].join(", ") || "nothing"}: ${Explore.whole(keys)} keys${pairs}.`;
    for (const cell of table.querySelectorAll("[data-row]")) {
      cell.classList.toggle("lit", cell.dataset.row === row || cell.dataset.column === column);
    }
  };
  const calm = () => {
    caption.textContent = usual;
    for (const cell of table.querySelectorAll(".lit")) cell.classList.remove("lit");
  };
  table.append(
    el("thead", {}, el("tr", {}, el("td", {}), columns.map((role) => el("th", { scope: "col", class: "turned" },
      el("span", {}, Explore.swatch(role), role))), el("th", { scope: "col", class: "number" }, "keys"))),
    el("tbody", {}, rows.map((row) => {
      const n = Explore.roleTokens(choice, row);
      return el("tr", {},
        el("th", {
          scope: "row", tabindex: "0", "data-row": row,
          onmouseenter: () => tell(row), onfocus: () => tell(row), onmouseleave: calm, onblur: calm,
        }, Explore.swatch(row), row, el("small", {}, n ? ` ${Explore.whole(n)}` : " no tokens")),
        columns.map((column) => el("td", {
          "data-row": row, "data-column": column,
          class: sees(row, column) ? `seen role-${Explore.family(column)}` : "unseen",
          onmouseenter: () => tell(row, column), onmouseleave: calm,
        }, el("span", { class: "hidden" }, sees(row, column) ? "yes" : "no"))),
        el("td", { class: "number" }, Explore.whole(keysOf(row))));
    })));
  Explore.fill("attention", table);
  const notes = [];
  if (traits.text !== "stream" && !Explore.counts(choice)?.tokens?.text) {
    notes.push(traits.text === "cross"
      ? "The text is read by cross-attention inside every block."
      : "The backbone reads no text; the action head reads it.");
  }
  if (!head.exposes_tokens) {
    const reads = Explore.counts(choice)?.reads;
    const where = reads ? ` of ${reads.length} layer${reads.length > 1 ? "s" : ""}` : "";
    notes.push(`${head.name} reads hidden states${where}: its rows are what it reads, and no other `
      + "token attends to it.");
  }
  document.getElementById("attention-more").textContent = notes.join(" ");
};
