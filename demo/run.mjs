// `make demo`: a local CA, three accounts, a shop, a stand-in for Meta's Graph API, and visitors; a live table shows
// what became of their events. With --seconds N it stops by itself and fails if an event went missing.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { serveShop } from "./shop.mjs";
import { ACCOUNTS, writeSite } from "./site.mjs";
import { Traffic } from "./traffic.mjs";
import { Tally } from "./tally.mjs";

const { values: options } = parseArgs({
    options: {
        bin: { type: "string" },
        standin: { type: "string" },
        plugins: { type: "string" },
        seconds: { type: "string", default: "0" },
        rate: { type: "string", default: process.env.DEMO_RATE ?? "60" },
        port: { type: "string", default: process.env.DEMO_PORT ?? "0" },
    },
});
const here = dirname(fileURLToPath(import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "pixelgate-demo-"));
const children = [];

/**
 * Starts a program of the demo's own; its output goes to a file. It is a process group of its own: Ctrl-C is for the demo
 * alone, which ends the others in order.
 */
function start(command, args, log) {
    const out = openSync(join(folder, log), "a");
    const child = spawn(command, args, { stdio: ["pipe", out, out], detached: true });
    child.log = log;
    children.push(child);
    return child;
}

/** Waits for a file of JSON that another program writes once it is ready. */
async function ready(file, child) {
    for (const deadline = Date.now() + 60_000; Date.now() < deadline;) {
        if (existsSync(join(folder, file))) return JSON.parse(readFileSync(join(folder, file), "utf8"));
        if (hasEnded(child)) throw new Error(`${child.spawnfile} ended:\n${readFileSync(join(folder, child.log), "utf8")}`);
        await pause(20);
    }
    throw new Error(`${child.spawnfile} is not ready after a minute`);
}

const hasEnded = (child) => child.exitCode !== null || child.signalCode !== null;

const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** Ends what the demo started, in the order of the events' way. */
async function cleanUp() {
    for (const child of children.reverse()) {
        if (hasEnded(child)) continue;
        const ended = new Promise((resolve) => { child.once("exit", resolve); });
        child.kill("SIGTERM");
        await Promise.race([ended, pause(35_000)]);
    }
    rmSync(folder, { recursive: true, force: true });
}

function explain(port) {
    const rules = ACCOUNTS.map(({ name }) => `MAP ${name}:443 127.0.0.1:${port}`).join(", ");
    console.log(`
Pixelgate is running. Its folder: ${folder}

  the shop in a browser of yours:
    chromium --user-data-dir=$(mktemp -d) --ignore-certificate-errors --host-resolver-rules="${rules}" https://${ACCOUNTS[0].name}/
  an event by hand:
    curl --cacert ${folder}/ca.pem --connect-to ::127.0.0.1:${port} https://${ACCOUNTS[1].name}/events \\
      -d '{"event_name":"PageView","fb.pixel_id":"${ACCOUNTS[1].pixel}"}'
  the operator's view:
    ${options.bin} status --config ${folder}
`);
    for (const account of ACCOUNTS) console.log(`  ${account.id}: ${account.name} → pixel ${account.pixel} · ${account.filter}`);
    console.log(`\n${Tally.legend}`);
}

async function main() {
    const shop = await serveShop();
    const standin = start(options.standin, ["--ready-file", join(folder, "graph.json"), "--until-stdin-closes"], "graph.log");
    const graph = await ready("graph.json", standin);
    const { ca, spki } = writeSite(folder, { graphUrl: graph.url, shopUrl: shop.url, plugins: options.plugins, https: options.port });
    const gateway = start(options.bin, ["run", "--config", folder, "--ready-file", join(folder, "ready.json")], "gateway.log");
    const listening = await ready("ready.json", gateway);
    const port = Number(listening.https[0].split(":").at(-1));
    explain(port);

    const traffic = new Traffic({ port, ca, accounts: ACCOUNTS });
    const replay = () => spawnSync(options.bin, ["dead-letters", "replay", "--all", "--config", folder]);
    const tally = new Tally({ ops: listening.ops, graphUrl: graph.url, accounts: ACCOUNTS, traffic, replay });
    traffic.start(Number(options.rate));
    const browser = existsSync("/usr/bin/chromium") && startBrowser(port, spki);
    console.log(browser ? "Chromium visits the shop, other visitors send beside it.\n" : "No Chromium here: the demo's own visitors send.\n");

    const seconds = Number(options.seconds);
    const end = seconds > 0 ? Date.now() + seconds * 1000 : Infinity;
    let stopped = false;
    for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => { stopped = true; });
    while (Date.now() < end) {
        await pause(1_000);
        if (stopped) break;
        if (hasEnded(gateway)) throw new Error(`the gateway ended:\n${readFileSync(join(folder, "gateway.log"), "utf8")}`);
        await tally.print();
    }
    await traffic.stop();
    const visited = !browser || await visitsWereGood(browser, stopped);
    const outcome = await tally.settle();
    shop.close();
    return judge(outcome, visited) ? 0 : 1;
}

/** Says in one line whether every event is where it belongs. */
function judge({ received, own, refused, delivered, dropped, missing }, visited) {
    const well = missing === 0 && refused === 0 && own > 0 && visited;
    const others = received > own ? ` (${own} by the demo's visitors, ${received - own} by browsers)` : "";
    const unanswered = refused > 0 ? `, ${refused} not answered` : "";
    const browser = visited ? "" : ", the visits in Chromium failed";
    console.log(`${well ? "All is well" : "NOT all is well"}: ${received} events sent${others}${unanswered}, ${delivered} delivered, `
        + `${dropped} dropped by filters, ${missing} missing${browser}`);
    return well;
}

/** Ends the browser after the visit that is under way; whether all visits were good, and there were any. */
async function visitsWereGood(browser, early) {
    const ended = new Promise((resolve) => { if (hasEnded(browser)) resolve(); else browser.once("exit", resolve); });
    browser.kill("SIGTERM");
    await Promise.race([ended, pause(35_000)]);
    const log = readFileSync(join(folder, browser.log), "utf8");
    const events = [...log.matchAll(/^visit \d+: (\d+) events answered/gm)].reduce((sum, [, count]) => sum + Number(count), 0);
    console.log(`${events} events of visits in Chromium were answered.`);
    // Who stops at once has let no visit end.
    if (browser.exitCode === 0 && (events > 0 || early)) return true;
    console.error(`demo: the visits in Chromium failed:\n${log.trimEnd().split("\n").slice(-20).join("\n")}`);
    return false;
}

/** Real visits in headless Chromium: tests/browser/visit.js. */
function startBrowser(port, spki) {
    const rules = ACCOUNTS.map(({ name }) => `MAP ${name}:443 127.0.0.1:${port}`).concat("MAP * ~NOTFOUND").join(", ");
    const visits = options.seconds === "0" ? "1000000" : options.seconds;
    return start("node", [join(here, "../tests/browser/visit.js"), "--url", `https://${ACCOUNTS[0].name}/`, "--rules", rules,
        "--spki", spki.join(","), "--seconds", visits, "--pixel", ACCOUNTS[0].pixel], "browser.log");
}

let code = 1;
try {
    code = await main();
} catch (error) {
    console.error(`demo: ${error.message}`);
} finally {
    await cleanUp();
}
process.exit(code);
