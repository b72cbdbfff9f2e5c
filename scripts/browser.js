// Headless Chromium for the checks of pages: a browser and its tabs, spoken to through a pipe, so that
// nothing is installed.
"use strict";
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

function chromium() {
  const names = [process.env.CHROMIUM, "chromium", "chromium-browser", "google-chrome", "chrome"].filter(Boolean);
  const folders = (process.env.PATH || "").split(path.delimiter);
  const found = names.flatMap((name) => (path.isAbsolute(name) ? [name] : folders.map((folder) => path.join(folder, name))));
  return found.find((file) => fs.existsSync(file));
}

// One browser; `send` speaks the DevTools protocol, whose messages end with a zero byte.
class Browser {
  constructor(program, profile) {
    const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe", "--user-data-dir=" + profile];
    this.process = spawn(program, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
    this.pending = new Map();
    this.listeners = [];
    this.next = 1;
    const parts = [];
    this.process.stdio[4].on("data", (chunk) => {
      let from = 0;
      for (let at = chunk.indexOf(0); at >= 0; at = chunk.indexOf(0, from)) {
        parts.push(chunk.subarray(from, at));
        this.hear(JSON.parse(Buffer.concat(parts).toString()));
        parts.length = 0;
        from = at + 1;
      }
      parts.push(chunk.subarray(from));
    });
    this.process.on("exit", () => this.pending.forEach(({ reject }) => reject(new Error("chromium ended"))));
  }

  hear(message) {
    const waiting = this.pending.get(message.id);
    if (!waiting) return this.listeners.forEach((listener) => listener(message));
    this.pending.delete(message.id);
    if (message.error) waiting.reject(new Error(message.error.message)); else waiting.resolve(message.result);
  }

  send(method, params = {}, sessionId) {
    const id = this.next++;
    this.process.stdio[3].write(JSON.stringify({ id, method, params, sessionId }) + "\0");
    return new Promise((resolve, reject) => this.pending.set(id, { resolve, reject }));
  }

  // Ends the browser and removes a folder with its profile. Its other processes outlive the first
  // one for a moment and still write to the profile, so that removing is tried again.
  async end(folder) {
    const ended = new Promise((resolve) => this.process.on("exit", resolve));
    this.process.kill();
    await ended;
    for (let left = 50; ; left--) {
      try { return fs.rmSync(folder, { recursive: true, force: true }); } catch (error) { if (!left) throw error; }
      await new Promise((done) => setTimeout(done, 100));
    }
  }
}

// One page at one size and one colour scheme.
class Tab {
  static async open(browser, url, width, scheme) {
    const tab = new Tab();
    tab.faults = [];
    tab.home = new URL(url).origin === "null" ? "file:" : new URL(url).origin;
    const { targetId } = await browser.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await browser.send("Target.attachToTarget", { targetId, flatten: true });
    tab.send = (method, params) => browser.send(method, params, sessionId);
    tab.close = () => browser.send("Target.closeTarget", { targetId });
    // One tab is listened to at a time.
    tab.listen = () => { browser.listeners = [(message) => message.sessionId === sessionId && tab.hear(message)]; };
    tab.listen();
    await Promise.all(["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"].map((method) => tab.send(method)));
    await tab.send("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: width < 500 });
    await tab.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
    const loaded = new Promise((resolve) => { tab.loaded = resolve; });
    const start = Date.now();
    await tab.send("Page.navigate", { url });
    await loaded;
    await tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
    tab.opened = Date.now() - start;
    return tab;
  }

  hear({ method, params }) {
    if (method === "Page.loadEventFired") this.loaded();
    if (method === "Runtime.exceptionThrown") this.faults.push(params.exceptionDetails.exception?.description || params.exceptionDetails.text);
    if (method === "Runtime.consoleAPICalled" && ["error", "warning", "assert"].includes(params.type)) this.faults.push("console: " + params.type);
    if (method === "Log.entryAdded" && params.entry.level === "error") this.faults.push(params.entry.text);
    if (method === "Network.requestWillBeSent" && !params.request.url.startsWith(this.home) && !/^(data|blob):/.test(params.request.url)) this.faults.push("asks for " + params.request.url.slice(0, 80));
  }

  async run(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description || exceptionDetails.text);
    return result.value;
  }

  // The middle of an element, after it was scrolled to; `share` of its width and height.
  async place(selector, share = [0.5, 0.5]) {
    const at = await this.run(`(() => { const e = document.querySelector(${JSON.stringify(selector)}); if (!e) return null;
      e.scrollIntoView({ block: "center", inline: "center" }); const r = e.getBoundingClientRect();
      const left = Math.max(0, r.left), top = Math.max(0, r.top), right = Math.min(innerWidth, r.right), bottom = Math.min(innerHeight, r.bottom);
      return [left + (right - left) * ${share[0]}, top + (bottom - top) * ${share[1]}]; })()`);
    if (!at) throw new Error("no " + selector);
    return at;
  }

  async hover(selector, share) {
    const [x, y] = await this.place(selector, share);
    await this.send("Input.dispatchMouseEvent", { type: "mouseMoved", x, y });
  }

  async click(selector, share) {
    const [x, y] = await this.place(selector, share);
    for (const type of ["mousePressed", "mouseReleased"]) {
      await this.send("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    }
  }

  async key(key) {
    const codes = { Backspace: 8, Tab: 9, Enter: 13, Escape: 27, End: 35, Home: 36, ArrowLeft: 37, ArrowUp: 38, ArrowRight: 39, ArrowDown: 40 };
    const event = { key, code: key, windowsVirtualKeyCode: codes[key], ...(key === "Enter" ? { text: "\r" } : {}) };
    await this.send("Input.dispatchKeyEvent", { type: key === "Enter" ? "keyDown" : "rawKeyDown", ...event });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  }

  // Types a text key by key, as a person does.
  async type(text) {
    for (const letter of text) {
      await this.send("Input.dispatchKeyEvent", { type: "keyDown", text: letter, key: letter });
      await this.send("Input.dispatchKeyEvent", { type: "keyUp", key: letter });
    }
  }

  // Waits until an expression is true.
  async until(expression, what, patience = Number(process.env.PATIENCE || 60) * 1000) {
    const since = Date.now();
    while (!(await this.run(expression))) {
      if (Date.now() - since > patience) throw new Error("in vain: " + (what || expression));
      await new Promise((done) => setTimeout(done, 20));
    }
  }

  tip() { return this.run(`(() => { const tip = document.getElementById("tip"); return tip.hidden ? "" : tip.textContent; })()`); }

  // What is seen; all of the page if `whole`.
  async shot(file, whole = false) {
    const { cssContentSize } = await this.send("Page.getLayoutMetrics");
    const clip = whole ? { clip: { ...cssContentSize, scale: 1 } } : {};
    const { data } = await this.send("Page.captureScreenshot", { format: "png", captureBeyondViewport: whole, ...clip });
    fs.writeFileSync(file, Buffer.from(data, "base64"));
  }
}

function check(truth, what) { if (!truth) throw new Error(what); }

module.exports = { Browser, Tab, check, chromium };
