// What a run made, as elements: answers with their sources, hits, contexts, and one card for every node of the path.

import { make } from "/ui/elements.js";
import { Question, passage } from "/ui/passage.js";

const WINDOW = 260; // characters of a source shown on each side of what is cited

// Passages by where they stand, collected from contexts and hits while a run goes on.
export class Passages {
  #known = [];

  add(channels) {
    for (const value of Object.values(channels)) {
      const rows = value?.passages ?? value?.hits ?? [];
      for (const row of rows) if (row.text && row.document) this.#known.push(row);
    }
  }

  around(citation) {
    return this.#known.find((p) => p.document === citation.document && p.start <= citation.start && citation.end <= p.end);
  }
}

// Offsets count characters as Python does, that is code points.
function highlighted(passage, citation) {
  const letters = Array.from(passage.text);
  const [from, to] = [citation.start - passage.start, citation.end - passage.start];
  const first = Math.max(0, from - WINDOW);
  const last = Math.min(letters.length, to + WINDOW);
  const cut = (a, b) => letters.slice(a, b).join("");
  return make("blockquote", {},
    first > 0 ? cut(first, from).replace(/^\S*\s/, "… ") : cut(first, from),
    make("mark", {}, cut(from, to)),
    last < letters.length ? cut(to, last).replace(/\s\S*$/, " …") : cut(to, last));
}

export function answer(value, passages) {
  const text = make("p", { class: "text" });
  for (const piece of value.text.trim().split(/(\[\d+\])/)) {
    const number = /^\[(\d+)\]$/.exec(piece)?.[1];
    const known = number && value.citations.some((c) => String(c.number) === number);
    text.append(known ? make("a", { class: "cite", href: `#source-${number}` }, number) : piece);
  }
  const card = make("article", { class: value.found ? "card answer" : "card answer missing" }, make("h2", {}, "Answer"), text);
  if (value.usage?.calls) {
    card.append(make("p", { class: "quiet small" }, `${value.usage.prompt_tokens} tokens read, ${value.usage.completion_tokens} written`));
  }
  if (!value.citations.length) return card;
  const list = make("ol", { class: "sources" });
  const seen = new Set();
  for (const citation of value.citations) {
    const passage = passages.around(citation);
    const item = make("li", {},
      make("span", { class: "number" }, String(citation.number)),
      make("div", {},
        make("div", { class: "place" }, `${citation.document}:${citation.line}`),
        passage ? highlighted(passage, citation) : make("blockquote", {}, make("mark", {}, citation.quote))));
    if (!seen.has(citation.number)) item.id = `source-${citation.number}`;
    seen.add(citation.number);
    list.append(item);
  }
  card.append(make("h3", {}, "Sources"), list);
  return card;
}

export function hits(rows, total = rows.length, question = new Question()) {
  if (!rows.length) return make("p", { class: "quiet" }, "nothing found");
  const best = Math.max(...rows.map((r) => r.score), 1e-9);
  const list = make("ol", { class: "hits" });
  for (const row of rows) {
    const bar = make("span", { class: "bar" }, make("i"));
    bar.firstChild.style.width = `${Math.max(3, (100 * row.score) / best)}%`;
    const place = make("div", { class: "place" }, row.document ?? `chunk ${row.id}`, bar, make("span", { class: "score" }, Number(row.score).toPrecision(3)));
    list.append(make("li", {}, make("span", { class: "number" }, String(row.rank)), make("div", {}, place, passage(row.text ?? "", question, row.id, row.start))));
  }
  const box = make("div", {}, list);
  if (total > rows.length) box.append(make("p", { class: "quiet small" }, `the first ${rows.length} of ${total}`));
  return box;
}

// The value of one channel in a word or two.
export function inShort(value) {
  if (typeof value?.total === "number") return String(value.total);
  if (Array.isArray(value?.passages)) return `${value.passages.length} passages`;
  if (Array.isArray(value)) return String(value.length);
  if (value && typeof value === "object" && "citations" in value) {
    const words = value.text.split(/\s+/).filter(Boolean).length;
    return value.found ? `${words} word${words === 1 ? "" : "s"}` : "not found";
  }
  const text = typeof value?.text === "string" ? value.text : ["string", "number", "boolean"].includes(typeof value) ? String(value) : "";
  return text.length > 46 ? `${text.slice(0, 45)}…` : text;
}

// The value of one channel, whatever it is.
export function channel(value, question, passages) {
  if (value && Array.isArray(value.hits)) return hits(value.hits, value.total, question);
  if (value && Array.isArray(value.passages)) {
    const list = make("ol", { class: "hits" });
    for (const p of value.passages) {
      list.append(make("li", {}, make("span", { class: "number" }, String(p.number)),
        make("div", {}, make("div", { class: "place" }, `${p.document}:${p.line}`), passage(p.text, question, p.chunk, p.start))));
    }
    const box = make("div", {}, value.passages.length ? list : make("p", { class: "quiet" }, "no passages"));
    if (value.left_out) box.append(make("p", { class: "quiet small" }, `${value.left_out} more did not fit`));
    return box;
  }
  if (value && typeof value === "object" && "citations" in value) {
    const sources = [...new Set(value.citations.map((c) => `${c.document}:${c.line}`))].join(", ");
    return make("div", {}, make("p", { class: "passage" }, value.text), make("p", { class: "place" }, sources));
  }
  if (value && typeof value === "object" && typeof value.text === "string") return make("p", { class: "passage" }, value.text);
  if (Array.isArray(value)) {
    const list = make("ul", { class: "plain" });
    for (const item of value) list.append(make("li", {}, channel(item, question, passages)));
    return list;
  }
  if (typeof value === "string") return make("p", { class: "passage" }, value);
  return make("code", {}, JSON.stringify(value));
}
