// Visitors without a browser: each sends an event as Meta's script does, over kept connections, and remembers when.

import { Agent, request } from "node:https";
import { randomUUID } from "node:crypto";

const NAMES = ["PageView", "ViewContent", "AddToCart", "Purchase", "Search"];

/** Sends events for all accounts until stopped. */
export class Traffic {
    constructor({ port, ca, accounts }) {
        this.port = port;
        this.accounts = accounts;
        this.agents = new Map(accounts.map(({ name }) => [name, new Agent({ keepAlive: true, maxSockets: 8, ca, servername: name })]));
        /** event id → { account, sentAt, mayBeDropped } of every event that was answered with success */
        this.answered = new Map();
        this.refused = 0;
        /** Requests that wait for their answer. */
        this.sending = new Set();
    }

    /** Sends `perSecond` events a second, spread evenly over the accounts. */
    start(perSecond) {
        let n = 0;
        this.timer = setInterval(() => {
            const account = this.accounts[n % this.accounts.length];
            const name = NAMES[Math.floor(n / this.accounts.length) % NAMES.length];
            const sending = this.#send(account, name, n).catch(() => { this.refused += 1; }).finally(() => this.sending.delete(sending));
            this.sending.add(sending);
            n += 1;
        }, 1000 / perSecond);
    }

    /** Sends nothing more, and waits for the answers to what was sent. */
    async stop() {
        clearInterval(this.timer);
        await Promise.all(this.sending);
        for (const agent of this.agents.values()) agent.destroy();
    }

    #send(account, eventName, n) {
        const id = randomUUID();
        const consents = n % 4 !== 0;
        const test = n % 10 === 0;
        const mayBeDropped = (account.id === "shoes" && !consents) || (account.id === "hats" && eventName === "Search") || (account.id === "bags" && test);
        const body = JSON.stringify({
            event_name: eventName,
            event_id: id,
            "fb.pixel_id": account.pixel,
            conversion_value: { value: 10 + (n % 90), currency: "EUR" },
            custom_data: { internal: "warehouse 7", ...(test && { test: true }) },
            "fb.advanced_matching": { em: `visitor${n}@shop.example` },
            "fb.fbp": `fb.1.1677024568192.${1000 + n}`,
            website_context: { location: `https://www.${account.id}.example/p/${n}`, referrer: "", isInIFrame: false },
        });
        const sentAt = Date.now();
        return new Promise((resolve, reject) => {
            const options = {
                host: "127.0.0.1", port: this.port, path: "/events", method: "POST", agent: this.agents.get(account.name),
                headers: { host: account.name, "content-type": "text/plain;charset=UTF-8", "content-length": Buffer.byteLength(body), cookie: consents ? "consent=marketing" : "consent=none" },
            };
            const sending = request(options, (answer) => {
                answer.resume();
                answer.on("end", () => {
                    if (answer.statusCode !== 200) return reject(new Error(`status ${answer.statusCode}`));
                    this.answered.set(id, { account, sentAt, mayBeDropped });
                    resolve();
                });
            });
            sending.on("error", reject);
            sending.end(body);
        });
    }
}
