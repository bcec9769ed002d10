// What one chooses: a system to begin with, parts, sizes and steps.
"use strict";

Explore.titles = {
  backbone: "Backbone",
  vae: "VAE",
  text_encoder: "Text encoder",
  action_head: "Action head",
  paradigm: "Paradigm",
};

/** The same choice with another part of a kind. */
Explore.replaced = (choice, kind, place) => (kind === "backbone"
  ? Explore.withBackbone(choice, place) : Explore.withPart(choice, kind, place));

Explore.drawControls = (choice, change) => {
  Explore.drawPresets(choice, change);
  Explore.fill("parts", Explore.kinds.map((kind) => Explore.partField(choice, kind, change)),
    Explore.modeField(choice, change));
  Explore.drawNumbers(choice, change);
};

Explore.field = (label, control, note = null) => {
  const id = control.id;
  return Explore.el("div", { class: "field" },
    Explore.el("label", { for: id }, label), control,
    note ? Explore.el("p", { class: "note", id: `${id}-note` }, note) : null);
};

Explore.drawPresets = (choice, change) => {
  const { presets } = Explore.data;
  const select = document.getElementById("preset");
  if (!select.options.length) {
    presets.forEach((preset, i) => select.append(
      Explore.el("option", { value: i }, preset.name.replaceAll("_", " ")),
    ));
    select.addEventListener("change", () => change(Explore.fromPreset(Number(select.value))));
    document.getElementById("without-spec").textContent = "Not among them, since parts of them are "
      + `missing (docs/systems.md): ${Explore.data.without_spec.join(", ")}.`;
  }
  select.value = choice.preset;
  document.getElementById("about").textContent = presets[choice.preset].about;
};

Explore.partField = (choice, kind, change) => {
  const parts = Explore.data.parts[kind];
  const groups = new Map();
  parts.forEach((part, i) => {
    if (!groups.has(part.name)) groups.set(part.name, []);
    groups.get(part.name).push([part, i]);
  });
  const option = ([part, i], text) => {
    const fits = !Explore.conflicts(Explore.replaced(choice, kind, i)).length;
    return Explore.el("option", { value: i, selected: i === choice.parts[kind] },
      `${fits ? "\u2713" : "\u2717"} ${text}`);
  };
  const select = Explore.el("select", {
    id: `part-${kind}`,
    "aria-describedby": `part-${kind}-note`,
    onchange: (event) => change(Explore.replaced(choice, kind, Number(event.target.value))),
  });
  for (const [name, found] of groups) {
    if (found.length === 1) select.append(option(found[0], Explore.longLabel(found[0][0])));
    else {
      select.append(Explore.el("optgroup", { label: name }, found.map((one) => option(
        one, one[0].variant || one[0].origin ? Explore.label(one[0]) : `${name}, by default`,
      ))));
    }
  }
  return Explore.field(Explore.titles[kind], select, Explore.part(choice, kind).about);
};

Explore.modeField = (choice, change) => {
  const modes = Explore.modes(choice);
  if (modes.length < 2) return null;
  const select = Explore.el("select", {
    id: "mode", onchange: (event) => change({ ...choice, mode: event.target.value }),
  }, modes.map((name) => Explore.el("option", { value: name, selected: name === choice.mode }, name)));
  return Explore.field("Way to act", select);
};

Explore.drawNumbers = (choice, change) => {
  const sizes = Explore.sizes(choice);
  const { views } = sizes.cameras;
  const number = (id, label, value, set, { min = 1, max = 100000 } = {}) => {
    const refusal = Explore.el("p", { class: "note refusal", id: `${id}-note`, role: "alert" });
    const input = Explore.el("input", {
      id, type: "number", inputmode: "numeric", min, max, step: 1, value, required: true,
      "aria-describedby": `${id}-note`,
      onchange: () => {
        const x = input.valueAsNumber;
        if (Number.isInteger(x) && x >= min && x <= max) {
          change(set(x));
          return;
        }
        input.setAttribute("aria-invalid", "true");
        refusal.textContent = `Not taken: expected a whole number from ${min} to ${max}. `
          + `The page still shows ${value}.`;
      },
    });
    const field = Explore.field(label, input);
    field.append(refusal);
    return field;
  };
  const key = (...path) => (x) => Explore.withValue(choice, path, x);
  const viewSize = (axis) => (x) => Explore.withValue(choice, ["cameras", "views"],
    choice.raw.cameras.views.map((view, i) => {
      const size = [...(view.size ?? [224, 224])];
      const first = views[0].size[axis];
      size[axis] = Math.max(1, Math.round((views[i].size[axis] / first) * x));
      return { ...view, size };
    }));
  const viewCount = (x) => {
    const list = choice.raw.cameras.views.slice(0, x);
    while (list.length < x) list.push({ ...list.at(-1), name: `camera_${list.length + 1}` });
    return Explore.withValue(choice, ["cameras", "views"], list);
  };
  const action = (x) => Explore.withValue(choice, ["actions", "groups"], (() => {
    const groups = structuredClone(choice.raw.actions.groups);
    const rest = groups.slice(1).reduce((sum, group) => sum + group.size, 0);
    if (x > rest) groups[0].size = x - rest;
    else return [{ name: groups[0].name, size: x }];
    return groups;
  })());
  const layouts = { side_by_side: "one row", t_shape: "first above the others",
    inverted_t: "first below the others", grid: "grid",
    frame_per_view: "a latent frame each", clip_per_view: "a clip each" };
  const options = (id, values, value, set) => Explore.el("select", {
    id, onchange: (event) => change(set(event.target.value)),
  }, Object.entries(values).map(([name, text]) => Explore.el(
    "option", { value: name, selected: name === String(value) }, text,
  )));
  const dtype = choice.raw.dtype ?? Explore.data.defaults.dtype;
  Explore.fill("numbers",
    number("frames", "Images in a clip", sizes.frames, key("video", "num_frames"), { max: 999 }),
    number("observed", "of these observed", sizes.observed, key("video", "num_observed"), { max: 999 }),
    number("downscale", "Imagined smaller by", sizes.downscale, key("video", "target_downscale"), { max: 16 }),
    number("views", "Camera views", views.length, viewCount, { max: 8 }),
    number("height", "Height of the first view", views[0].size[0], viewSize(0), { max: 2048 }),
    number("width", "Width of the first view", views[0].size[1], viewSize(1), { max: 2048 }),
    Explore.field("Views on the canvas", options("layout", layouts, sizes.cameras.layout,
      (x) => Explore.withValue(choice, ["cameras", "layout"], x))),
    number("chunk", "Actions in a chunk", sizes.chunk, key("actions", "chunk_size"), { max: 1000 }),
    number("action", "Values in an action", sizes.action, action, { max: 200 }),
    number("state", "Values in the state", sizes.state, key("state", "size"), { min: 0, max: 200 }),
    number("video-steps", "Steps for video", Explore.schedule(choice, "video").steps,
      key("schedules", "video", "steps"), { max: 100 }),
    number("action-steps", "Steps for actions", Explore.schedule(choice, "action").steps,
      key("schedules", "action", "steps"), { max: 100 }),
    Explore.field("Number format", options("dtype", { bfloat16: "bfloat16", float32: "float32" },
      dtype, (x) => Explore.withValue(choice, ["dtype"], x))));
};
