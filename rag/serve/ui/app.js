// The page: pick a pipeline, ask, watch the path light up.

import { duration, make } from "/ui/elements.js";
import { Problem, get, run, setToken } from "/ui/events.js";
import { draw } from "/ui/graph.js";
import { Question } from "/ui/passage.js";
import { Passages, answer, channel, hits, inShort } from "/ui/results.js";

const at = (id) => document.getElementById(id);
let pipeline = null;
let graph = null;
let running = null;

async function withToken(work) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 401) throw error;
      await askForToken();
    }
  }
}

function askForToken() {
  const dialog = at("login");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => { setToken(at("token").value); at("token").value = ""; resolve(); }, { once: true });
  });
}

async function choose(name) {
  running?.abort();
  pipeline = await withToken(() => get(`/v1/pipelines/${encodeURIComponent(name)}`));
  for (const button of at("pipelines").children) button.setAttribute("aria-pressed", String(button.textContent === name));
  at("name").textContent = pipeline.name;
  at("description").textContent = pipeline.description;
  graph = draw(at("graph"), pipeline.graph, pipeline.arguments.required ?? [], show);
  document.querySelector("main").classList.toggle("wide", graph.width > 620);
  clear();
  at("hello").hidden = false;
  at("more").replaceChildren(...furtherArguments());
  location.hash = name;
}

// Fields for the arguments beside the question.
function furtherArguments() {
  const fields = [];
  for (const [name, schema] of Object.entries(pipeline.arguments.properties)) {
    const kinds = [schema.type, ...(schema.anyOf ?? []).map((s) => s.type)];
    if (name === "query" || !kinds.some((k) => ["string", "integer", "number"].includes(k))) continue;
    const number = !kinds.includes("string");
    const input = make("input", { name, type: number ? "number" : "text", placeholder: schema.default ?? "", title: schema.description ?? "" });
    if (number) input.className = "short";
    input.value = number ? schema.default ?? "" : "";
    fields.push(make("label", {}, name, input));
  }
  return fields;
}

function given() {
  const args = pipeline.arguments.properties.query ? { query: at("query").value } : {};
  for (const input of at("more").querySelectorAll("input")) {
    if (input.value !== "") args[input.name] = input.type === "number" ? Number(input.value) : input.value;
  }
  return args;
}

function clear() {
  at("result").replaceChildren();
  at("trace").replaceChildren();
  at("problem").hidden = true;
  at("hello").hidden = true;
}

function show(name) {
  const card = document.querySelector(`details[data-node="${CSS.escape(name)}"]`);
  if (!card) return;
  card.open = true;
  card.scrollIntoView({ behavior: "smooth", block: "center" });
}

// The trace of one run: a card for every node, in the order in which they began.
class Trace {
  constructor(question) {
    this.question = question;
    this.cards = new Map();
    this.passages = new Passages();
    this.longest = 0;
    at("trace").replaceChildren(make("h2", {}, "Path taken"));
  }

  card(node) {
    if (!this.cards.has(node)) {
      const card = make("details", { class: "card step running", "data-node": node });
      const bar = make("span", { class: "bar" }, make("i"));
      const name = make("strong", {}, node);
      const notes = make("span", { class: "notes" });
      const used = make("span", { class: "used" });
      const time = make("span", { class: "time" });
      const body = make("div", { class: "body" });
      card.append(make("summary", {}, make("span", { class: "dot" }), name, notes, used, bar, time), body);
      at("trace").append(card);
      this.cards.set(node, { card, bar, notes, used, time, body, seconds: 0, times: 0, tokens: [0, 0] });
    }
    return this.cards.get(node);
  }

  started(node) {
    const entry = this.card(node);
    entry.card.className = "card step running";
    if (entry.times > 0) graph.repeated(node);
    graph.mark(node, "running");
  }

  finished(node, { seconds, failed, tokens }) {
    const entry = this.card(node);
    const state = failed ? "failed" : "done";
    entry.seconds += seconds;
    entry.times += 1;
    entry.card.className = `card step ${state}`;
    if (tokens) {
      entry.tokens = [entry.tokens[0] + tokens[0], entry.tokens[1] + tokens[1]];
      entry.used.textContent = `${entry.tokens[0]} → ${entry.tokens[1]} tokens`;
    }
    const text = duration(entry.seconds) + (entry.times > 1 ? ` · ${entry.times}×` : "");
    entry.time.textContent = text;
    this.longest = Math.max(this.longest, entry.seconds);
    for (const e of this.cards.values()) e.bar.firstChild.style.width = `${(100 * e.seconds) / (this.longest || 1)}%`;
    graph.mark(node, state, text);
  }

  // Every time that a node ran, and every item that it ran for, has a part of its own.
  wrote(node, item, channels) {
    const { body, notes, times } = this.card(node);
    this.passages.add(channels);
    const part = make("section", { class: "part", "data-run": times, "data-item": item + 1 });
    for (const [name, value] of Object.entries(channels)) {
      part.append(make("h3", {}, name), channel(value, this.question, this.passages));
    }
    body.append(part);
    for (const { dataset } of body.children) {
      const which = [times > 1 && `run ${dataset.run}`, (item || dataset.item > 1) && `item ${dataset.item}`];
      dataset.which = which.filter(Boolean).join(", ");
    }
    const said = Object.entries(channels).map(([name, value]) => `${name} ${inShort(value)}`.trim());
    notes.textContent = said.join(" · ") + (item ? ` (${item + 1} items)` : "");
  }

  note(node, text) {
    at("trace").append(make("p", { class: "note" }, make("strong", {}, node), ` ${text}`));
  }

  failed(node) {
    if (!node) return;
    this.card(node).card.className = "card step failed";
    graph.mark(node, "failed", "failed");
  }
}

function tell(problem) {
  const box = at("problem");
  box.replaceChildren(make("strong", {}, problem.title ?? "It did not work"), make("p", {}, (problem.node ? `${problem.node}: ` : "") + (problem.detail ?? problem.message)));
  if (problem.hint) box.append(make("p", { class: "quiet" }, problem.hint));
  box.hidden = false;
}

async function ask() {
  running?.abort();
  const stop = (running = new AbortController());
  clear();
  const trace = new Trace(new Question(at("query").value, pipeline));
  const began = performance.now();
  let streamed = null;
  graph.start();
  at("go").textContent = "Stop";
  document.body.classList.add("busy");
  try {
    await withToken(async () => {
      for await (const { kind, data } of run(pipeline.name, given(), stop.signal)) {
        if (kind === "node_started") trace.started(data.node);
        else if (kind === "node_finished") trace.finished(data.node, data);
        else if (kind === "wrote") trace.wrote(data.node, data.item, data.channels);
        else if (kind === "note") trace.note(data.node, data.text);
        else if (kind === "token") {
          if (!streamed) at("result").replaceChildren((streamed = make("article", { class: "card answer" }, make("h2", {}, "Answer"), make("p", { class: "text writing" }))));
          streamed.lastChild.append(data.text);
        } else if (kind === "error") {
          trace.failed(data.node);
          throw new Problem(data);
        } else if (kind === "finished") {
          at("result").replaceChildren(...shown(data.result, trace, (performance.now() - began) / 1000));
        }
      }
    });
  } catch (error) {
    if (error.name !== "AbortError") tell(error);
  } finally {
    if (running === stop) {
      running = null;
      graph.end();
      at("go").textContent = "Ask";
      document.body.classList.remove("busy");
    }
  }
}

function shown(result, trace, seconds) {
  const cards = Object.entries(result).map(([name, value]) => {
    if (value && typeof value === "object" && "citations" in value) return answer(value, trace.passages);
    const body = name === "hits" && Array.isArray(value) && !Array.isArray(value[0]) ? hits(value, value.length, trace.question) : channel(value, trace.question, trace.passages);
    return make("article", { class: "card" }, make("h2", {}, name), body);
  });
  cards.push(make("p", { class: "quiet small total" }, `${duration(seconds)} from question to result`));
  return cards;
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else ask();
});

document.addEventListener("click", (event) => event.target.closest(".passage")?.classList.toggle("open"));

const { pipelines } = await withToken(() => get("/v1/pipelines"));
for (const { name, description } of pipelines) {
  const button = make("button", { type: "button", title: description, "aria-pressed": "false" }, name);
  button.addEventListener("click", () => choose(name));
  at("pipelines").append(button);
}
const wanted = decodeURIComponent(location.hash.slice(1));
await choose(pipelines.some((p) => p.name === wanted) ? wanted : pipelines[0].name);
document.body.dataset.ready = "true";
