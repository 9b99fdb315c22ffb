// The demo's site: certificates of a local CA, three accounts, their filters. Everything is written into one folder.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createHash, createPublicKey, X509Certificate } from "node:crypto";
import { dirname, join } from "node:path";

export const HOST_DOMAIN = "gw.agency.example";

/** Each account, what its pixel receives, and what its filters do. */
export const ACCOUNTS = [
    { id: "shoes", pixel: "1000000001", name: "events.shoes.example", filter: "consent gate: no marketing consent, no event" },
    { id: "hats", pixel: "1000000002", name: "events.hats.example", filter: "fields: drops Search, removes custom_data.internal" },
    { id: "bags", pixel: "1000000003", name: HOST_DOMAIN, filter: "script: adds custom_data.margin, drops test traffic" },
];

/** Writes the whole site below `folder`. */
export function writeSite(folder, { graphUrl, shopUrl, plugins, https }) {
    const write = (name, text) => {
        mkdirSync(dirname(join(folder, name)), { recursive: true });
        writeFileSync(join(folder, name), text);
    };
    const toml = JSON.stringify;
    write("pixelgate.toml", `[host]
name = "Demo Agency"
domain = "${HOST_DOMAIN}"
data_dir = "data"
upstream_private = true # the demo's shop runs on this machine

[listen]
https = ["127.0.0.1:${https}"]
http = ["127.0.0.1:0"]
ops = "127.0.0.1:0"

[filters]
script_runner = ${toml(join(plugins, "script-runner.wasm"))}

[delivery]
graph_url = "${graphUrl}"
`);
    const pixel = (account) => `[[pixels]]
id = "${account.pixel}"
access_token = { file = "../secrets/${account.id}" }
`;
    const [shoes, hats, bags] = ACCOUNTS;
    write("accounts/shoes.toml", `name = "Shoe Shop"
domains = ["${shoes.name}"]
upstream = ["${shopUrl}"]

${pixel(shoes)}
[privacy]
consent_sources = ["consent"]

[[filters]]
name = "consent"
component = ${toml(join(plugins, "consent.wasm"))}
[filters.settings]
require = "marketing"
[[filters.settings.sources]]
signal = "consent"
format = "flag"
granted = ["marketing"]
`);
    write("accounts/hats.toml", `name = "Hat Shop"
domains = ["${hats.name}"]

${pixel(hats)}
[[filters]]
name = "fields"
component = ${toml(join(plugins, "fields.wasm"))}
[filters.settings]
drop_events = ["Search"]
remove_custom_data = ["internal"]
`);
    write("accounts/bags.toml", `name = "Bag Shop"

${pixel(bags)}
[[filters]]
name = "margin"
script = "../filters/margin.js"
`);
    write("filters/margin.js", `exports.filter = (context, event) => {
    if (event.custom_data.test) return { drop: "test traffic" };
    const value = event.custom_data.value;
    return typeof value === "number" ? { set: { "custom_data.margin": value * 0.4 } } : true;
};
`);
    for (const account of ACCOUNTS) write(`secrets/${account.id}`, `token-of-${account.id}`);
    return writeCertificates(folder);
}

/** A CA, and a certificate for each name; returns the CA's PEM and what Chromium needs to trust the leaves. */
function writeCertificates(folder) {
    const openssl = (...args) => execFileSync("openssl", args, { cwd: folder, stdio: "pipe" });
    const newKey = (out) => openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", out);
    newKey("ca-key.pem");
    openssl("req", "-x509", "-new", "-key", "ca-key.pem", "-subj", "/CN=Pixelgate demo CA", "-days", "30", "-out", "ca.pem");
    const spki = [];
    for (const name of new Set(ACCOUNTS.map((account) => account.name))) {
        const at = `certs/${name}`;
        mkdirSync(join(folder, at), { recursive: true });
        newKey(`${at}/key.pem`);
        writeFileSync(join(folder, at, "extensions"), `subjectAltName=DNS:${name}\n`);
        openssl("req", "-new", "-key", `${at}/key.pem`, "-subj", "/CN=demo", "-out", `${at}/request.pem`);
        openssl("x509", "-req", "-in", `${at}/request.pem`, "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
            "-days", "30", "-extfile", `${at}/extensions`, "-out", `${at}/leaf.pem`);
        const leaf = readFileSync(join(folder, at, "leaf.pem"));
        writeFileSync(join(folder, at, "chain.pem"), Buffer.concat([leaf, readFileSync(join(folder, "ca.pem"))]));
        const key = createPublicKey(new X509Certificate(leaf).publicKey.export({ type: "spki", format: "pem" }));
        spki.push(createHash("sha256").update(key.export({ type: "spki", format: "der" })).digest("base64"));
    }
    return { ca: readFileSync(join(folder, "ca.pem")), spki };
}
