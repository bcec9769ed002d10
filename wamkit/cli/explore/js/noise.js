// The noise levels of every pass: the same grids as those of wamkit's samplers.
"use strict";

/** Karras's levels: equally far apart in the seventh root of sigma / (1 - sigma). */
Explore.karras = (high, low, count) => {
  const [top, bottom] = [high, low].map((s) => (s / (1 - s)) ** (1 / 7));
  return Array.from({ length: count }, (_, i) => {
    const s = (top + (i / Math.max(count - 1, 1)) * (bottom - top)) ** 7;
    return s / (1 + s);
  });
};

/** The levels between which so many steps lead from noise to data. */
Explore.grid = (schedule, tokens, steps) => {
  const { sigma_max: most, sigma_min: least, spacing, grid_start: start } = schedule;
  if (spacing === "karras") return [...Explore.karras(most, least, steps), 0];
  const shift = schedule.shift === "tokens"
    ? Math.exp(0.95 + ((2.05 - 0.95) * (tokens - 1024)) / (4096 - 1024)) : schedule.shift;
  const levels = Array.from({ length: steps + 1 }, (_, i) => {
    const u = start * (1 - i / steps);
    return (shift * u) / (1 + (shift - 1) * u);
  });
  if (most === 1 && least === 0) return levels;
  const last = least ? levels.at(-2) : 0;
  const slope = last < 1 ? (most - least) / (1 - last) : 0;
  return [...levels.slice(0, -1).map((s) => most - slope * (1 - s)), 0];
};

/** The nearest value that bfloat16 has, halves to the even one. */
Explore.bfloat16 = (x) => {
  const bits = new Uint32Array(new Float32Array([x]).buffer);
  bits[0] += 0x7fff + ((bits[0] >>> 16) & 1);
  bits[0] &= 0xffff0000;
  return new Float32Array(bits.buffer)[0];
};

/** The levels that the network is given in a whole run of a modality, and that of the result. */
Explore.run = (choice, modality, count = 0) => {
  if (modality !== "video" && Explore.part(choice, "action_head").is_regression) return [1, 0];
  const schedule = Explore.schedule(choice, modality);
  const steps = count || schedule.steps;
  const roles = Explore.tokens(choice);
  const tokens = modality === "video" ? roles.context + roles.target : roles[modality];
  const twice = ["midpoint", "heun"].includes(schedule.solver);
  const nodes = Explore.grid(schedule, tokens, twice ? Math.floor(steps / 2) : steps)
    .filter((s) => s > 1e-6);
  nodes.push(0);
  let levels = nodes.slice(0, -1);
  if (twice) {
    levels = levels.flatMap((s, i) => [s, schedule.solver === "heun"
      ? nodes[i + 1] || s / 2 : (s + nodes[i + 1]) / 2]);
  }
  if (schedule.bf16_sampling) levels = levels.map((s) => Explore.bfloat16(1000 * s) / 1000);
  levels.push(0);
  return schedule.whole_timesteps ? levels.map((s) => Math.trunc(1000 * s) / 1000) : levels;
};

/** The noise levels of every pass of every stage: modality -> level; none while keys are kept. */
Explore.noise = (choice, stages) => {
  const places = {};
  return stages.map(({ stage, parts, passes }) => {
    const frames = parts.clips.flatMap((clip) => clip.frames.map(([role]) => Explore.base(role)));
    const there = (modality) => (modality === "video" ? frames.includes("target") : parts.vectors[modality]);
    const runs = stage.prefill ? [] : Object.entries(stage.runs)
      .filter(([modality]) => there(modality))
      .map(([modality, { of, steps, goes_on: goesOn }]) => {
        const start = goesOn ? places[modality] ?? 0 : 0;
        places[modality] = start + passes;
        return { modality, start, levels: Explore.run(choice, of, steps) };
      });
    return Array.from({ length: passes }, (_, i) => Object.fromEntries(runs.map(
      ({ modality, start, levels }) => [modality, levels[Math.min(start + i, levels.length - 1)]],
    )));
  });
};
