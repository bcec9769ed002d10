"use strict";

const Watch = { key: "", pause: 250, svg: "http://www.w3.org/2000/svg" };

Watch.element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

Watch.shape = (name, attributes) => {
  const made = document.createElementNS(Watch.svg, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

Watch.color = (index, count) => `hsl(${Math.round((360 * index) / Math.max(count, 1))} 65% 48%)`;

// A title with the range of all values, and a line for each series over a common axis.
Watch.lines = (title, series, unit) => {
  const values = series.flat();
  const low = Math.min(...values, 0), high = Math.max(...values, 0), span = high - low || 1;
  const range = `${low.toPrecision(3)} to ${high.toPrecision(3)}${unit}`;
  const svg = Watch.shape("svg", { viewBox: "0 0 600 130", role: "img" });
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-label", `${title}, ${range}`);
  const y = (value) => 120 - (110 * (value - low)) / span;
  svg.append(Watch.shape("line", { class: "axis", x1: 0, x2: 600, y1: y(0), y2: y(0) }));
  series.forEach((row, index) => {
    const step = 600 / Math.max(row.length - 1, 1);
    const points = row.map((value, place) => `${(place * step).toFixed(1)},${y(value).toFixed(1)}`);
    const stroke = Watch.color(index, series.length);
    svg.append(Watch.shape("polyline", { class: "trace", stroke, points: points.join(" ") }));
  });
  const box = Watch.element("div");
  box.append(Watch.element("h3", `${title} (${range})`), svg);
  return box;
};

Watch.legend = (labels) => {
  const legend = Watch.element("div", undefined, "legend");
  labels.forEach((label, index) => {
    const entry = Watch.element("span"), mark = Watch.element("i");
    mark.style.background = Watch.color(index, labels.length);
    entry.append(mark, label);
    legend.append(entry);
  });
  return legend;
};

Watch.images = (title, views) => {
  const box = Watch.element("div");
  box.append(Watch.element("h3", title));
  const row = Watch.element("div", undefined, "images");
  for (const [view, files] of Object.entries(views)) {
    files.forEach((file, index) => {
      const figure = Watch.element("figure"), image = Watch.element("img");
      const name = files.length > 1 ? `${view} ${index + 1}` : view;
      image.src = `data:image/jpeg;base64,${file}`;
      image.alt = `${title}: ${name}`;
      figure.append(image, Watch.element("figcaption", name));
      row.append(figure);
    });
  }
  box.append(row);
  return box;
};

Watch.robot = (robot, about) => {
  const card = Watch.element("article", undefined, "robot");
  card.append(Watch.element("h2", robot.prompt));
  const timing = robot.timing;
  card.append(Watch.element("p",
    `session ${robot.session}, ${robot.requests} requests, ${robot.age_s.toFixed(1)} s ago; `
    + `${timing.infer_ms.toFixed(0)} ms to infer, ${timing.wait_ms.toFixed(0)} ms waiting, `
    + `batch of ${timing.batch}`, "note"));
  if (Object.keys(robot.images).length) card.append(Watch.images("It sees", robot.images));
  if (robot.imagined) card.append(Watch.images("It imagines", robot.imagined));
  const columns = about.actions.map((_, index) => robot.actions.map((row) => row[index]));
  const seconds = (robot.actions.length / about.control_hz).toFixed(1);
  card.append(Watch.lines(`Its actions for the next ${seconds} s`, columns, ""));
  card.append(Watch.legend(about.actions));
  if (robot.latency.length > 1) {
    const title = `Latency of its last ${robot.latency.length} requests`;
    card.append(Watch.lines(title, [robot.latency], " ms"));
  }
  return card;
};

Watch.tiles = (about) => {
  const tiles = [[about.clients, "clients"], [about.queue, "requests wait"],
    [`${about.latency_ms.p50.toFixed(0)} ms`, "latency, median"],
    [`${about.latency_ms.p95.toFixed(0)} ms`, "latency, p95"],
    [about.batch.toFixed(1), "requests in a batch, mean"]];
  return tiles.map(([value, name]) => {
    const tile = Watch.element("div", undefined, "tile");
    tile.append(Watch.element("b", String(value)), Watch.element("span", name));
    return tile;
  });
};

Watch.draw = (about) => {
  document.getElementById("policy").textContent = about.policy;
  document.getElementById("state").textContent = "live";
  document.getElementById("counts").replaceChildren(...Watch.tiles(about));
  const cards = about.robots.map((robot) => Watch.robot(robot, about));
  document.getElementById("robots").replaceChildren(...cards);
  document.getElementById("empty").hidden = about.robots.length > 0;
};

Watch.poll = async () => {
  const state = document.getElementById("state"), login = document.getElementById("login");
  try {
    const headers = Watch.key ? { Authorization: `Api-Key ${Watch.key}` } : {};
    const answer = await fetch("watch/data", { headers, cache: "no-store" });
    login.hidden = answer.status !== 401;
    if (answer.status === 401) {
      state.textContent = Watch.key ? "this key is not accepted" : "an API key is needed";
      return;
    }
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    Watch.draw(await answer.json());
  } catch (error) {
    state.textContent = `no answer (${error.message}); trying again`;
  }
  setTimeout(Watch.poll, Watch.pause);
};

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  Watch.key = document.getElementById("key").value.trim();
  Watch.poll();
});
Watch.poll();
