// Talking to the service: JSON requests, and runs as a stream of events.

let token = sessionStorage.getItem("token") || "";

export function setToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

export class Problem extends Error {
  constructor(details) {
    super(details.detail);
    Object.assign(this, details);
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(path, { ...options, headers });
  if (!response.ok) {
    const details = await response.json().catch(() => ({ detail: response.statusText }));
    throw new Problem({ status: response.status, ...details });
  }
  return response;
}

function post(path, body, signal) {
  return request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
}

export async function get(path) {
  return (await request(path)).json();
}

// What the words of a question matched in a passage that the pipeline found.
export async function highlights(pipeline, query, chunk) {
  const response = await post(`/v1/pipelines/${encodeURIComponent(pipeline)}/highlights`, { query, chunks: [chunk] });
  return (await response.json()).highlights[0].matches;
}

// Yields {kind, data} for each server-sent event of a run. Aborting the signal stops the run.
export async function* run(pipeline, args, signal) {
  const response = await post(`/v1/pipelines/${encodeURIComponent(pipeline)}/stream?watch=true`, args, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (pending + value).split("\n\n");
    pending = blocks.pop();
    for (const block of blocks) {
      const kind = /^event: (.*)$/m.exec(block);
      const data = /^data: (.*)$/m.exec(block);
      if (kind && data) yield { kind: kind[1], data: JSON.parse(data[1]) };
    }
  }
}
