// The page: one choice, drawn anew when it changes.
"use strict";

Explore.draw = () => {
  const choice = Explore.choice;
  const conflicts = Explore.conflicts(choice);
  const cost = Explore.cost(choice);
  Explore.drawn = { conflicts, cost };
  Explore.drawControls(choice, Explore.change);
  Explore.drawVerdict(choice, conflicts, Explore.change);
  Explore.drawFigures(choice, cost);
  Explore.drawTimeline(choice, cost);
  Explore.drawAttention(choice);
  Explore.drawMap(choice, Explore.change);
  Explore.drawTokens(choice);
  Explore.drawParameters(choice);
  Explore.drawCosts(choice, cost);
  Explore.drawSystems(choice, Explore.change);
  document.getElementById("toml").textContent = Explore.toml(choice);
};

/** Draw one section anew. */
Explore.redraw = (section) => {
  const { choice, drawn } = Explore;
  if (section === "timeline") Explore.drawTimeline(choice, drawn.cost);
  if (section === "attention") Explore.drawAttention(choice);
  if (section === "map") Explore.drawMap(choice, Explore.change);
};

Explore.change = (choice) => {
  const focused = document.activeElement?.id;
  const label = document.activeElement?.getAttribute("aria-label");
  Explore.stop();
  Explore.choice = choice;
  Explore.step = 0;
  Explore.draw();
  const next = (focused && document.getElementById(focused))
    || (label && [...document.querySelectorAll("[aria-current]")].find((x) => x.closest("#map, #chips")));
  next?.focus({ preventScroll: true });
  document.getElementById("status").textContent = Explore.drawn.conflicts.length
    ? "It does not fit." : "It fits.";
};

Explore.copy = async () => {
  const text = document.getElementById("toml").textContent;
  const button = document.getElementById("copy");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = Explore.el("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
};

Explore.begin = () => {
  Explore.data = JSON.parse(document.getElementById("data").textContent);
  const device = document.getElementById("device");
  for (const { id, name } of Explore.data.devices) device.append(Explore.el("option", { value: id }, name));
  device.addEventListener("change", Explore.draw);
  document.getElementById("copy").addEventListener("click", Explore.copy);
  const all = document.getElementById("all-settings");
  all.addEventListener("change", () => {
    Explore.allSettings = all.checked;
    Explore.redraw("map");
  });
  Explore.bindTimeline();
  Explore.choice = Explore.fromPreset(Explore.data.start);
  Explore.draw();
};

if (typeof document !== "undefined") Explore.begin();
