// Choices: from a published system to a spec, as tables and as TOML.
"use strict";

Explore.kinds = ["backbone", "vae", "text_encoder", "action_head", "paradigm"];

/** A choice that begins with a system. */
Explore.fromPreset = (place) => {
  const preset = Explore.data.presets[place];
  const choice = {
    parts: { ...preset.parts },
    raw: structuredClone(preset.raw),
    mode: "",
    preset: place,
  };
  choice.mode = Explore.modes(choice)[0] ?? "";
  return choice;
};

/** The system with options that the page does not follow, as long as nothing of it is changed. */
Explore.published = (choice) => {
  const preset = Explore.data.presets[choice.preset];
  if (!preset?.whole) return null;
  const same = Explore.kinds.every((kind) => choice.parts[kind] === preset.parts[kind])
    && JSON.stringify(choice.raw) === JSON.stringify(preset.raw);
  return same ? preset.whole : null;
};

/** Options that the system one began with has, and the choice has no more. */
Explore.leftOut = (choice) => (Explore.published(choice)
  ? [] : Explore.data.presets[choice.preset]?.whole?.options ?? []);

/** The tables of a spec, as `wamkit check` reads them. */
Explore.spec = (choice) => {
  const whole = Explore.published(choice);
  const { dtype, seed, conventions, format, ...sections } = (whole ?? choice).raw;
  const scalars = Object.fromEntries(
    Object.entries({ dtype, seed, conventions, format }).filter(([, value]) => value !== undefined),
  );
  const parts = Object.fromEntries(
    Explore.kinds.map((kind) => [kind, whole?.parts[kind] ?? Explore.part(choice, kind).table]),
  );
  return { ...scalars, ...parts, ...sections };
};

Explore.tomlValue = (value) => {
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(Explore.tomlValue).join(", ")}]`;
  if (value !== null && typeof value === "object") {
    const pairs = Object.entries(value).map(([key, x]) => `${key} = ${Explore.tomlValue(x)}`);
    return `{ ${pairs.join(", ")} }`;
  }
  return String(value);
};

/** A spec as the text of a .toml file. */
Explore.toml = (choice) => {
  const spec = Explore.spec(choice);
  const isTable = (x) => x !== null && typeof x === "object" && !Array.isArray(x);
  const lines = [];
  for (const [key, value] of Object.entries(spec)) {
    if (!isTable(value)) lines.push(`${key} = ${Explore.tomlValue(value)}`);
  }
  const section = (name, table) => {
    lines.push("", `[${name}]`);
    const inner = [];
    for (const [key, value] of Object.entries(table)) {
      if (isTable(value) && name === "schedules") inner.push([`${name}.${key}`, value]);
      else if (key === "views" && value.length > 1) {
        lines.push(`${key} = [`);
        for (const view of value) lines.push(`    ${Explore.tomlValue(view)},`);
        lines.push("]");
      } else lines.push(`${key} = ${Explore.tomlValue(value)}`);
    }
    if (inner.length && lines.at(-1) === `[${name}]`) lines.splice(-2);
    for (const [path, value] of inner) section(path, value);
  };
  for (const [key, value] of Object.entries(spec)) if (isTable(value)) section(key, value);
  return `${lines.join("\n").trim()}\n`;
};

/** The same choice with one part replaced; a way to act that is no more is replaced too. */
Explore.withPart = (choice, kind, place) => {
  const changed = { ...choice, parts: { ...choice.parts, [kind]: place } };
  if (!Explore.modes(changed).includes(changed.mode)) {
    changed.mode = Explore.modes(changed)[0] ?? "";
  }
  return changed;
};

/** The same choice with another backbone, and the VAE and text encoder that it needs. */
Explore.withBackbone = (choice, place) => {
  let changed = Explore.withPart(choice, "backbone", place);
  const backbone = Explore.part(changed, "backbone");
  const refused = (other, kind) => {
    const found = kind === "vae" ? Explore.channelConflicts(other) : Explore.textConflicts(other);
    return found.some(({ between }) => between.includes(kind))
      || Explore.companionPlaces(other, kind).length > 0;
  };
  for (const kind of ["vae", "text_encoder"]) {
    if (refused(changed, kind)) {
      const names = backbone.trained_with[kind];
      const found = Explore.data.parts[kind].map((part, i) => [part, i])
        .sort(([a], [b]) => Number(names.includes(b.name)) - Number(names.includes(a.name)))
        .map(([, i]) => Explore.withPart(changed, kind, i))
        .find((other) => !refused(other, kind));
      if (found) changed = found;
    }
  }
  return changed;
};

/** The same choice with a key of the spec set. */
Explore.withValue = (choice, path, value) => {
  const raw = structuredClone(choice.raw);
  let table = raw;
  for (const key of path.slice(0, -1)) table = (table[key] ??= {});
  table[path.at(-1)] = value;
  return { ...choice, raw };
};

/** What a cure says to set, done; null where it is not that simple. */
Explore.cured = (choice, hint) => {
  const key = /^set ((?:video|state|actions)\.\w+) = (\d+)/.exec(hint);
  if (key) return Explore.withValue(choice, key[1].split("."), Number(key[2]));
  const views = structuredClone(choice.raw.cameras.views);
  const sized = [...hint.matchAll(/cameras\.views\.(\d+)\.size = \[(\d+), (\d+)\]/g)];
  for (const [, place, height, width] of sized) views[place].size = [Number(height), Number(width)];
  return sized.length ? Explore.withValue(choice, ["cameras", "views"], views) : null;
};
