// Starts emulate's Slack for test_slack_emulate.py: prints its address on stdout, and ends when stdin does.
// It has no public way to register an Events URL, nor does it take GET and the query, which Slack's Python SDK
// uses for some methods. Both are mended here, in its private parts, which is why its version is pinned.

import { readFileSync, readdirSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const [eventsUrl, seed] = [process.argv[2], JSON.parse(process.argv[3])];
const folder = dirname(fileURLToPath(import.meta.resolve("emulate")));
const chunk = readdirSync(folder).find(
  (name) => name.startsWith("dist-") && name.endsWith(".js") && readFileSync(`${folder}/${name}`, "utf8").includes("files.getUploadURLExternal"),
);
const { slackPlugin } = await import(pathToFileURL(`${folder}/${chunk}`));
const { createEmulator } = await import("emulate");

const register = slackPlugin.register;
let hooks;
slackPlugin.register = function (app, store, webhooks, ...rest) {
  hooks = webhooks;
  const fetch = app.fetch;
  app.fetch = async (request) => fetch(await withForm(request));
  return register.call(this, app, store, webhooks, ...rest);
};

async function withForm(request) {
  const url = new URL(request.url);
  if (!url.pathname.startsWith("/api/") || (request.method === "POST" && !url.search)) return request;
  const headers = new Headers(request.headers);
  headers.set("content-type", "application/x-www-form-urlencoded");
  headers.delete("content-length");
  const body = url.searchParams.toString();
  url.search = "";
  return new Request(url, { method: "POST", headers, body });
}

const emulator = await createEmulator({ service: "slack", port: 0, seed: { slack: seed } });
hooks.register({ url: eventsUrl, events: ["*"], active: true, owner: "slack" });
console.log(emulator.url);
process.stdin.on("end", () => process.exit(0)).resume();
