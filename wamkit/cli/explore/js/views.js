// How views tile the canvas, and which conflicts they have, as `wamkit check` finds them.
"use strict";

/** Nearest whole number, halves to the even one. */
Explore.round = (x) => {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 ? low + 1 : low;
};

Explore.nearest = (pixels, token) => Math.max(token, Explore.round(pixels / token) * token);

/** The sizes nearest to their own with which views tile the canvas in whole tokens. */
Explore.tileSizes = (cameras, token = [1, 1]) => {
  const { views } = cameras;
  if (Explore.isApart(cameras)) {
    return views.map(() => views[0].size.map((n, i) => Explore.nearest(n, token[i])));
  }
  const rows = Explore.viewRows(cameras).map((row) => {
    const height = Explore.nearest(row[0].size[0], token[0]);
    return row.map((view) => [height, Explore.nearest(view.size[1], token[1])]);
  });
  const width = (row) => row.reduce((sum, size) => sum + size[1], 0);
  const widest = Math.max(...rows.map(width));
  const found = rows.map((row) => {
    const lacking = widest - width(row);
    return row.map((size, i) => (i === row.length - 1 ? [size[0], size[1] + lacking] : size));
  });
  if (cameras.layout === "inverted_t") found.reverse(); // in the order of the views
  return found.flat();
};

/** What to set so that the views tile the canvas. */
Explore.resizeHint = (cameras, token = [1, 1]) => {
  const sizes = Explore.tileSizes(cameras, token);
  const named = new Map(cameras.views.map((view, i) => [view.name, sizes[i]]));
  const changes = cameras.views.map((view, i) => [i, view.size, named.get(view.name)])
    .filter(([, old, size]) => old.some((n, axis) => n !== size[axis]))
    .map(([i, , size]) => `cameras.views.${i}.size = [${size.join(", ")}]`);
  return `set ${changes.join(" and ")}`;
};

/** The canvas of views of those sizes. */
Explore.retiled = (cameras, token) => {
  const sizes = Explore.tileSizes(cameras, token);
  const named = new Map(cameras.views.map((view, i) => [view.name, sizes[i]]));
  const views = cameras.views.map((view) => ({ ...view, size: named.get(view.name) }));
  return Explore.canvas({ ...cameras, views });
};

Explore.cameraConflicts = ({ cameras }) => {
  const found = [];
  const names = cameras.views.map((view) => view.name);
  for (const name of [...new Set(names)].sort()) {
    if (names.filter((other) => other === name).length > 1) {
      found.push({
        between: ["cameras.views"],
        why: `two views are called ${Explore.quoted(name)}`,
        hint: "give each camera a name of its own",
      });
    }
  }
  if (cameras.clip === "shared" && cameras.layout !== "frame_per_view") {
    found.push({
      between: ["cameras.clip", "cameras.layout"],
      why: `views share a clip where each is a frame by itself, and ${cameras.layout} lays them `
        + "on one canvas",
      hint: 'set cameras.layout = "frame_per_view", or cameras.clip = "per_view"',
    });
  }
  const sized = new Set(cameras.views.map((view) => view.size.join("x")));
  if (Explore.isApart(cameras)) {
    if (sized.size > 1) {
      const listed = cameras.views.map((v) => `${v.name} ${v.size[0]}x${v.size[1]}`).join(", ");
      found.push({
        between: ["cameras.views"],
        why: `views that are latent frames must be of one size, found ${listed}`,
        hint: `give them the same size: ${Explore.resizeHint(cameras)}; or lay them on one canvas `
          + "with another layout",
      });
      return found;
    }
  }
  const rows = Explore.viewRows(cameras);
  for (const row of rows) {
    if (new Set(row.map((view) => view.size[0])).size > 1) {
      const listed = row.map((view) => `${view.name} ${view.size[0]}`).join(", ");
      found.push({
        between: ["cameras.views"],
        why: `views in one row must be equally high, found ${listed}`,
        hint: `give them the same size[0]: ${Explore.resizeHint(cameras)}`,
      });
    }
  }
  const widths = rows.map((row) => row.reduce((sum, view) => sum + view.size[1], 0));
  if (new Set(widths).size > 1) {
    found.push({
      between: ["cameras.layout", "cameras.views"],
      why: `rows of a ${cameras.layout} must be equally wide, found [${widths.join(", ")}]`,
      hint: "change the sizes of the views so that every row has the same total width: "
        + Explore.resizeHint(cameras),
    });
  }
  return found;
};
