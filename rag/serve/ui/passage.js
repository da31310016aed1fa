// The text of a passage with the question's words in bold, and on request with the words that late interaction matched.

import { make } from "/ui/elements.js";
import { highlights } from "/ui/events.js";

// What was asked of which pipeline; `explains` says whether it can tell what matched.
export class Question {
  #known = new Map();

  constructor(text = "", pipeline = null) {
    this.text = text;
    this.explains = Boolean(pipeline?.highlights && text.trim());
    this.pipeline = pipeline?.name;
  }

  matches(chunk) {
    if (!this.#known.has(chunk)) {
      const asked = highlights(this.pipeline, this.text, chunk);
      this.#known.set(chunk, asked);
      asked.catch(() => this.#known.delete(chunk)); // so that it can be asked for again
    }
    return this.#known.get(chunk);
  }
}

// `chunk` is the number of the passage in its collection, `start` where its text begins in the document.
export function passage(text, question, chunk, start) {
  const quote = make("p", { class: "passage" }, ...withBold(text, question.text));
  if (!question.explains || !Number.isInteger(chunk)) return quote;
  const told = make("div", { role: "status" });
  const button = make("button", { type: "button", class: "explain", "aria-pressed": "false" }, "What matched?");
  button.addEventListener("click", async () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    if (!on) {
      quote.replaceChildren(...withBold(text, question.text));
      told.replaceChildren();
      return;
    }
    try {
      const matches = await question.matches(chunk);
      if (button.getAttribute("aria-pressed") !== "true") return; // put back meanwhile
      quote.classList.add("open");
      quote.replaceChildren(...withMarks(text, matches, start));
      told.replaceChildren(pairs(matches));
      quote.querySelector("mark")?.scrollIntoView({ block: "nearest" });
    } catch (problem) {
      button.setAttribute("aria-pressed", "false");
      told.replaceChildren(make("p", { class: "quiet small" }, problem.message));
    }
  });
  return make("div", {}, quote, button, told);
}

function withBold(text, words) {
  const wanted = new Set((words.toLowerCase().match(/[\p{L}\p{N}]{4,}/gu) ?? []));
  return text.split(/([\p{L}\p{N}]+)/u).map((piece) => (wanted.has(piece.toLowerCase()) ? make("b", {}, piece) : piece));
}

// Spans count characters as Python does, that is code points, from the beginning of the document.
function withMarks(text, matches, start) {
  const letters = Array.from(text);
  const marks = new Array(letters.length).fill("none");
  for (const { span, strength } of [...matches].sort((a, b) => a.score - b.score)) {
    if (span && strength !== "none") marks.fill(strength, Math.max(span[0] - start, 0), Math.max(span[1] - start, 0));
  }
  const pieces = [];
  for (let from = 0, to = 1; from < letters.length; from = to, to += 1) {
    while (to < letters.length && marks[to] === marks[from]) to += 1;
    const piece = letters.slice(from, to).join("");
    pieces.push(marks[from] === "none" ? piece : make("mark", { class: marks[from] }, piece));
  }
  return pieces;
}

function pairs(matches) {
  const list = make("ul", { class: "matches" });
  for (const { word, found, score, strength } of matches) {
    const said = strength === "none" ? `${word} → –` : `${word} → ${found || "(title)"} `;
    list.append(make("li", { class: strength }, said));
    if (strength !== "none") list.lastChild.append(make("span", { class: "score" }, score.toFixed(2)));
  }
  return matches.length ? list : make("p", { class: "quiet small" }, "There are no words to match.");
}
