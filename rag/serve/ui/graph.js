// A pipeline's tree as a drawing. Every part is laid out in its own coordinates, with the places where edges come in
// and go out, and moved as a whole when it becomes part of something larger.

const SVG = "http://www.w3.org/2000/svg";
const GAP = { x: 22, y: 38 };
const BOX = { height: 46, least: 118 };
const PAD = { side: 18, top: 30, bottom: 16, back: 26 };

const empty = () => ({ w: 0, h: 0, boxes: [], edges: [], frames: [], ins: [], outs: [] });

function move(part, dx, dy) {
  const shift = (p) => ({ ...p, x: p.x + dx, y: p.y + dy });
  return {
    ...part,
    boxes: part.boxes.map(shift),
    frames: part.frames.map(shift),
    ins: part.ins.map(shift),
    outs: part.outs.map(shift),
    edges: part.edges.map((e) => ({ ...e, a: shift(e.a), b: shift(e.b), via: e.via === undefined ? undefined : e.via + dx })),
  };
}

function connect(outs, ins, label) {
  return outs.flatMap((a) => ins.map((b) => ({ a, b, label })));
}

function merge(parts, w, h) {
  const all = (key) => parts.flatMap((p) => p[key]);
  return { ...empty(), w, h, boxes: all("boxes"), edges: all("edges"), frames: all("frames") };
}

function box(tree) {
  const detail = `${tree.reads.join(", ") || "–"} → ${tree.writes.join(", ") || "–"}`;
  const w = Math.max(BOX.least, 7.4 * tree.name.length + 108, 5.7 * detail.length + 26);
  const at = { x: w / 2, name: tree.name };
  return {
    ...empty(), w, h: BOX.height,
    boxes: [{ x: 0, y: 0, w, h: BOX.height, tree, detail }],
    ins: [{ ...at, y: 0 }], outs: [{ ...at, y: BOX.height }],
  };
}

function column(parts, label) {
  const w = Math.max(...parts.map((p) => p.w));
  let y = 0;
  const placed = parts.map((part) => {
    const put = move(part, (w - part.w) / 2, y);
    y += part.h + GAP.y;
    return put;
  });
  const whole = merge(placed, w, y - GAP.y);
  placed.slice(1).forEach((part, i) => whole.edges.push(...connect(placed[i].outs, part.ins, label?.[i + 1])));
  return { ...whole, ins: placed[0].ins, outs: placed.at(-1).outs };
}

function row(parts, labels = []) {
  const h = Math.max(...parts.map((p) => p.h));
  let x = 0;
  const placed = parts.map((part, i) => {
    const put = move(part, x, 0);
    put.ins = put.ins.map((p, k) => ({ ...p, label: k ? undefined : labels[i] }));
    x += part.w + GAP.x;
    return put;
  });
  const whole = merge(placed, x - GAP.x, h);
  return { ...whole, ins: placed.flatMap((p) => p.ins), outs: placed.flatMap((p) => p.outs) };
}

function frame(inner, title, again) {
  const right = again ? PAD.back : 0;
  const w = Math.max(inner.w + 2 * PAD.side + right, 6.2 * title.length + 2 * PAD.side);
  const h = inner.h + PAD.top + PAD.bottom;
  const put = move(inner, (w - right - inner.w) / 2, PAD.top);
  if (again) {
    for (const a of again.from(put)) for (const b of put.ins) put.edges.push({ a, b, via: w - PAD.side, label: "again" });
  }
  return { ...put, w, h, frames: [{ x: 0, y: 0, w, h, title }, ...put.frames] };
}

function flow(tree) {
  const parts = tree.parts.map((p) => ({ ...p, drawn: layout(p.node) }));
  const title = tree.about.replace(/:$/, "");
  const of = (field) => parts.filter((p) => p.field === field).map((p) => p.drawn);
  if (tree.kind === "route") {
    const ways = parts.filter((p) => p.field === "ways");
    return frame(column([...of("by"), row(ways.map((p) => p.drawn), ways.map((p) => p.label))]), tree.name);
  }
  if (tree.kind === "loop" || tree.kind === "recurse") {
    const round = column([...of("body"), ...of("judge"), ...of("derive")]);
    const rest = of("otherwise");
    const whole = rest.length ? column([round, ...rest], [, "otherwise"]) : round;
    const outs = [...round.outs.map((p) => p.name)];
    return frame(whole, title, { from: (put) => lastPoints(put, outs) });
  }
  if (tree.kind === "try") {
    return frame(row(parts.map((p) => p.drawn), parts.map((p) => (p.field === "fallback" ? "if it fails" : undefined))), title);
  }
  return frame(column(parts.map((p) => p.drawn)), title);
}

function lastPoints(part, names) {
  return part.boxes.filter((b) => names.includes(b.tree.name)).map((b) => ({ x: b.x + b.w, y: b.y + b.h / 2, name: b.tree.name, side: true }));
}

function layout(tree) {
  if (tree.kind === "operator") return box(tree);
  if (tree.kind === "sequence") return column(tree.children.map(layout));
  if (tree.kind === "parallel") return row(tree.children.map(layout));
  return flow(tree);
}

function element(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function path({ a, b, via }) {
  if (via !== undefined) {
    const y = b.y - GAP.y / 2 + 6;
    return `M${a.x},${a.y} H${via - 8} Q${via},${a.y} ${via},${a.y - 8} V${y + 8} Q${via},${y} ${via - 8},${y} H${b.x + 12} Q${b.x},${y} ${b.x},${b.y}`;
  }
  const half = (b.y - a.y) / 2;
  return `M${a.x},${a.y} C${a.x},${a.y + half} ${b.x},${b.y - half} ${b.x},${b.y}`;
}

// Draws a pipeline into `place`; the result lights nodes up as a run goes on.
export function draw(place, tree, inputs, pick) {
  const start = { ...empty(), w: 90, h: 24, ins: [], outs: [{ x: 45, y: 24, name: "" }], boxes: [] };
  const whole = column([start, layout(tree)]);
  const margin = 12;
  const svg = element("svg", {
    viewBox: `${-margin} ${-margin} ${whole.w + 2 * margin} ${whole.h + 2 * margin}`,
    width: whole.w + 2 * margin, height: whole.h + 2 * margin, role: "img", "aria-label": "Graph of the pipeline",
  });
  const arrow = (id) => element("marker", { id, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" },
    element("path", { d: "M0,0.8 L7,4 L0,7.2 z" }));
  svg.append(element("defs", {}, arrow("arrow"), arrow("arrow-lit")));
  for (const f of whole.frames) {
    svg.append(element("rect", { class: "frame", x: f.x, y: f.y, width: f.w, height: f.h, rx: 12 }));
  }
  const edges = whole.edges.map((edge) => {
    const line = element("path", { d: path(edge), class: edge.via === undefined ? "edge" : "edge back" });
    svg.append(line);
    const label = edge.label ?? edge.b.label;
    if (label) {
      const back = edge.via !== undefined;
      const x = back ? edge.via - 4 : edge.a.x + (edge.b.x - edge.a.x) * 0.78; // on the curve, nearer to where it leads
      const y = back ? (edge.a.y + edge.b.y) / 2 : edge.a.y + (edge.b.y - edge.a.y) * 0.66 + 4;
      svg.append(element("text", { x, y, class: "label", "text-anchor": back ? "end" : "middle" }, label));
    }
    return { ...edge, line };
  });
  for (const f of whole.frames) svg.append(element("text", { class: "label", x: f.x + 12, y: f.y + 18 }, f.title));
  const mid = whole.w / 2;
  svg.append(element("g", { class: "start" },
    element("rect", { x: mid - 45, y: 0, width: 90, height: 24, rx: 12 }),
    element("text", { x: mid, y: 16, "text-anchor": "middle" }, inputs.join(", "))));
  const boxes = new Map();
  for (const b of whole.boxes) {
    const time = element("text", { x: b.x + b.w - 10, y: b.y + 19, class: "time", "text-anchor": "end" });
    const group = element("g", { class: "node", tabindex: 0, "data-node": b.tree.name },
      element("title", {}, `${b.tree.operator}: ${b.tree.summary}`),
      element("rect", { x: b.x, y: b.y, width: b.w, height: b.h, rx: 9 }),
      element("text", { x: b.x + 12, y: b.y + 19, class: "name" }, b.tree.name),
      element("text", { x: b.x + 12, y: b.y + 35, class: "detail" }, b.detail), time);
    group.addEventListener("click", () => pick(b.tree.name));
    group.addEventListener("keydown", (e) => e.key === "Enter" && pick(b.tree.name));
    svg.append(group);
    boxes.set(b.tree.name, { group, time });
  }
  place.replaceChildren(svg);

  const lit = (name) => name === "" || boxes.get(name)?.group.classList.contains("done") || boxes.get(name)?.group.classList.contains("running");
  return {
    width: whole.w,
    mark(name, state, text) {
      const found = boxes.get(name);
      if (!found) return;
      found.group.classList.remove("running", "done", "failed");
      found.group.classList.add(state);
      if (text !== undefined) found.time.textContent = text;
      for (const edge of edges) edge.line.classList.toggle("lit", Boolean(lit(edge.a.name) && lit(edge.b.name) && edge.via === undefined) || edge.repeated === true);
    },
    repeated(name) {
      for (const edge of edges) if (edge.via !== undefined && edge.b.name === name) { edge.repeated = true; edge.line.classList.add("lit"); }
    },
    start() {
      svg.classList.add("ran");
      svg.classList.remove("ended");
      for (const { group, time } of boxes.values()) { group.classList.remove("running", "done", "failed"); time.textContent = ""; }
      for (const edge of edges) { edge.repeated = false; edge.line.classList.remove("lit"); }
    },
    end() { svg.classList.add("ended"); },
  };
}
