/**
 * Types for scripts that run as Pixelgate filters (`script = "….js"` in an account's `[[filters]]`). In JavaScript refer
 * to this file at the top (`/// <reference path="pixelgate-filter.d.ts" />`) and write
 * `@type {import("pixelgate-filter").Filter}` above `exports.filter`, as the samples do.
 */
declare module "pixelgate-filter" {
  /** A value that JSON can hold. */
  export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };

  /** Keys as they were sent; a key that was not sent is absent. */
  export interface Fields {
    readonly [key: string]: Json | undefined;
  }

  /** Where the event came in. */
  export interface Context {
    /** The account's id. */
    readonly account: string;
    /** Where the event goes. */
    readonly pixel_id: string;
    /** The name under which the request came in. */
    readonly host: string;
    /** The cookies and keys that the account's `[privacy] consent_sources` names, and `country` if a trusted proxy says it. */
    readonly signals: Fields;
  }

  /**
   * Who it was: SHA-256 digests (64 lower-case hex digits), and the four keys that Meta takes as text. An empty list is a key
   * whose values are not hashed: it can be removed, but what it holds is not shown.
   */
  export interface UserData {
    readonly fbp?: string;
    readonly fbc?: string;
    readonly client_user_agent?: string;
    readonly client_ip_address?: string;
    readonly [hashed: string]: readonly string[] | string | undefined;
  }

  /** One event, decoded and hashed, in Meta's words. It is frozen: changes are what `filter` returns. */
  export interface Event {
    readonly event_name: string;
    readonly event_id: string | null;
    /** Unix seconds. */
    readonly event_time: number;
    readonly event_source_url: string | null;
    readonly referrer_url: string | null;
    readonly action_source: string;
    readonly user_data: UserData;
    readonly custom_data: Fields;
    readonly data_processing_options: readonly string[];
    readonly opt_out: boolean | null;
    readonly app_data: Fields;
    /** Further keys of the event that Meta defines. */
    readonly extra: Fields;
  }

  /** A path that may be edited. */
  export type Path =
    | "event_name"
    | "event_source_url"
    | "referrer_url"
    | "data_processing_options"
    | "data_processing_options_country"
    | "data_processing_options_state"
    | "opt_out"
    | `custom_data.${string}`
    | `user_data.${string}`;

  /** Changes to the event; carried out in this order: rename, remove, set. At most 64 in all. */
  export interface Edits {
    /** From `custom_data.<key>` to `custom_data.<key>`. */
    rename?: { [path: `custom_data.${string}`]: `custom_data.${string}` };
    remove?: Path[];
    /** Values of at most 4 KiB. `user_data.<key>` takes SHA-256 digests only, but for the four keys that are text. */
    set?: { [path in Path]?: Json | bigint };
  }

  /** Nothing or true passes the event; false or a reason drops it; edits modify it. */
  export type Verdict = void | boolean | { drop: string } | Edits;

  /** Called per event. What it throws is a fault: the account's `on_fault` says what becomes of the event. */
  export type Filter = (context: Context, event: Event) => Verdict;

  /** Called once per instance with `[filters.settings]`. What it throws is a problem of the account's configuration. */
  export type Init<Settings = unknown> = (settings: Settings) => void;
}

/** The gateway's log: lines of at most 1 KiB, at most 20 a call. */
declare const console: {
  debug(...parts: unknown[]): void;
  info(...parts: unknown[]): void;
  log(...parts: unknown[]): void;
  warn(...parts: unknown[]): void;
  error(...parts: unknown[]): void;
};

/** What a script offers: `exports.filter`, and `exports.init` if it has settings. */
declare const exports: {
  init?: import("pixelgate-filter").Init<any>;
  filter?: import("pixelgate-filter").Filter;
};
declare const module: { exports: typeof exports };
