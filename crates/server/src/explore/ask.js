// Requests to the server, each under a name. A new request aborts the pending one of the same name,
// and the server then stops computing its answer.

const KEY = new URLSearchParams(location.search).get("token") || "";
const running = new Map();

// Thrown when a request was aborted because a newer one of its name took its place.
class Replaced extends Error {}

function giveUp(name) {
  if (running.has(name)) running.get(name).abort();
  running.delete(name);
}

async function send(name, path, body) {
  giveUp(name);
  const controller = new AbortController();
  running.set(name, controller);
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers: { Authorization: "Bearer " + KEY, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: controller.signal,
    });
  } catch (error) {
    throw controller.signal.aborted ? new Replaced() : new Error("The server does not answer. Was modelve explore ended?");
  }
  if (!response.ok) {
    const said = await response.json().catch(() => null);
    if (controller.signal.aborted) throw new Replaced();
    const fault = new Error(said && said.error ? said.error.message : "The server says " + response.status);
    fault.status = response.status;
    throw fault;
  }
  return { response, controller };
}

async function ask(name, path, body) {
  const { response, controller } = await send(name, path, body);
  try {
    const answer = await response.json();
    if (running.get(name) !== controller) throw new Replaced();
    running.delete(name);
    return answer;
  } catch (error) {
    throw controller.signal.aborted ? new Replaced() : error;
  }
}

// Yields the server-sent events of an answer as pairs of name and data.
async function* events(name, path, body) {
  const { response, controller } = await send(name, path, { ...body, stream: true });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const parts = rest.split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const event = /^event: (.*)$/m.exec(part), data = /^data: (.*)$/m.exec(part);
        if (data) yield [event ? event[1] : "", data[1]];
      }
    }
  } catch (error) {
    throw controller.signal.aborted ? new Replaced() : error;
  } finally {
    if (running.get(name) === controller) running.delete(name);
  }
}

// Asks for a probe as a stream of events; `onProgress` is called with the steps done and their total.
async function probe(name, kind, body, onProgress) {
  for await (const [event, data] of events(name, "/v1/modelve/" + kind, body)) {
    const said = JSON.parse(data);
    if (event === "progress") onProgress(said.done, said.total);
    else if (event === "error") throw new Error(said.error.message);
    else return said;
  }
  throw new Replaced();
}

// The command line that gives the same result, quoted for a shell.
function commandOf(words) {
  const model = about.model ? ["-m", about.model] : [];
  return ["modelve", words[0], ...words.slice(1), ...model].map(quoteWord).join(" ");
}

// A line with a command and a button that copies it.
function commandLine(words) {
  const line = commandOf(words);
  const copy = el("button", { type: "button", onclick: () => copyText(line, copy) }, "copy");
  return el("p", { class: "command" }, el("code", {}, line), copy);
}

function copyText(text, button) {
  const before = button.textContent;
  const say = (word) => { button.textContent = word; setTimeout(() => { button.textContent = before; }, 1500); };
  if (!navigator.clipboard) return say("cannot copy");
  navigator.clipboard.writeText(text).then(() => say("copied"), () => say("cannot copy"));
}

// Downloads the current result of a view as a page in one file.
async function keepPage(page, data, words) {
  const now = new Date(), two = (n) => String(n).padStart(2, "0");
  const date = now.getFullYear() + "-" + two(now.getMonth() + 1) + "-" + two(now.getDate()) + " " + two(now.getHours()) + ":" + two(now.getMinutes());
  const { response } = await send("page", "/explore/page", { page, data, command: commandOf(words), date });
  const link = el("a", { href: URL.createObjectURL(await response.blob()), download: "modelve-" + page + ".html" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
