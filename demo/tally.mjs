// What became of the events: the gateway's own metrics, the stand-in's book, and the time from browser to Graph API.

/** Reads both sides and prints a line a pixel. */
export class Tally {
    /** `replay` sends again what a filter held; see `pixelgate dead-letters replay`. */
    constructor({ ops, graphUrl, accounts, traffic, replay }) {
        Object.assign(this, { ops, graphUrl, accounts, traffic, replay });
    }

    /** Prints the table as it is now. */
    async print() {
        const metrics = await this.#metrics();
        const summary = await this.#graph("summary");
        const columns = (row) => [14, 9, 30, 5, 8, 10, 7, 7].map((width, i) => String(row[i] ?? "").padEnd(width)).join(" ");
        console.log(columns(["pixel", "received", "dropped (why)", "held", "on disk", "delivered", "p50 ms", "p99 ms"]));
        for (const account of this.accounts) {
            const of = `account="${account.id}"`;
            const delays = await this.#delays(account);
            const at = (share) => (delays.length > 0 ? delays[Math.min(delays.length - 1, Math.floor(delays.length * share))] : "-");
            console.log(columns([
                account.pixel,
                sum(metrics, "pixelgate_events_accepted_total", of),
                reasons(metrics, of),
                sum(metrics, "pixelgate_events_held_total", of),
                sum(metrics, "pixelgate_lane_pending", of),
                summary.pixels[account.pixel]?.distinct ?? 0,
                at(0.5),
                at(0.99),
            ]));
        }
        console.log();
    }

    /** What the table's columns mean. */
    static legend = `  received   answered with success, so it is on disk or a filter dropped it
  dropped    a filter's rule said so, for this reason
  held       a filter failed on it (on a busy machine its time is up at times): kept as a dead letter, sent again at the end
  on disk    waits for delivery
  delivered  the stand-in for Meta has it
  p50, p99   milliseconds from the visitor to the stand-in: of half, and of 99 in 100
`;

    /** Waits until everything that was answered is delivered or was dropped, prints the end, and says what came of it. */
    async settle() {
        let missing = Infinity;
        let [lost, received, dropped] = [[], 0, 0];
        for (const deadline = Date.now() + 30_000; Date.now() < deadline && missing > 0;) {
            await new Promise((resolve) => { setTimeout(resolve, 200); });
            let metrics = await this.#metrics();
            // On a busy machine a filter may miss its deadline: such events are held, and go through when sent again.
            if (this.accounts.some(({ id }) => sum(metrics, "pixelgate_events_held_total", `account="${id}"`) > 0)) {
                this.replay();
                metrics = await this.#metrics();
            }
            missing = received = dropped = 0;
            for (const account of this.accounts) {
                const of = `account="${account.id}"`;
                const count = (name) => sum(metrics, `pixelgate_events_${name}_total`, of);
                received += count("accepted");
                dropped += count("dropped");
                missing += Math.abs(count("accepted") - count("dropped") - count("delivered"));
            }
            const arrived = new Set();
            for (const account of this.accounts) for (const event of await this.#events(account)) arrived.add(event.event_id);
            lost = [...this.traffic.answered].filter(([id, event]) => !arrived.has(id) && !event.mayBeDropped);
            missing += lost.length;
        }
        await this.print();
        for (const [id, event] of lost.slice(0, 5)) console.log(`  missing: ${id} of ${event.account.id}`);
        const summary = await this.#graph("summary");
        const delivered = this.accounts.reduce((total, { pixel }) => total + (summary.pixels[pixel]?.distinct ?? 0), 0);
        return { received, own: this.traffic.answered.size, refused: this.traffic.refused, delivered, dropped, missing };
    }

    /** Milliseconds from a visitor's request to the Graph request, sorted. */
    async #delays(account) {
        const events = await this.#events(account);
        const known = events.map((event) => [this.traffic.answered.get(event.event_id), event.first_ms]);
        return known.filter(([sent]) => sent).map(([sent, first]) => first - sent.sentAt).sort((a, b) => a - b);
    }

    async #events(account) {
        return (await this.#graph(`events?pixel=${account.pixel}`)).events;
    }

    async #graph(path) {
        return (await fetch(`${this.graphUrl}/_control/${path}`)).json();
    }

    /** name → [labels, value] pairs */
    async #metrics() {
        const text = await (await fetch(`http://${this.ops}/metrics`)).text();
        const metrics = new Map();
        for (const line of text.split("\n")) {
            const [, name, labels, value] = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
            if (name) metrics.set(name, [...(metrics.get(name) ?? []), [labels ?? "", Number(value)]]);
        }
        return metrics;
    }
}

function sum(metrics, name, label) {
    return (metrics.get(name) ?? []).filter(([labels]) => labels.includes(label)).reduce((total, [, value]) => total + value, 0);
}

function reasons(metrics, label) {
    const dropped = (metrics.get("pixelgate_events_dropped_total") ?? []).filter(([labels, value]) => labels.includes(label) && value > 0);
    return dropped.map(([labels, value]) => `${value} ${/reason="([^"]*)"/.exec(labels)?.[1] ?? ""}`).join(", ") || "0";
}
