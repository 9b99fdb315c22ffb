/**
 * Types for components of one's own in JavaScript, built with componentize-qjs: `filter.wit` as that tool maps it.
 * Scripts (`script = "….js"`) have friendlier ones: `pixelgate-filter.d.ts`.
 */
declare module "pixelgate:filter/types@0.1.0" {
  export type Scalar =
    | { tag: "text"; val: string }
    | { tag: "number"; val: number }
    | { tag: "boolean"; val: boolean }
    | { tag: "json"; val: string };
  export interface Field {
    name: string;
    value: Scalar;
  }
  export interface Context {
    account: string;
    pixelId: string;
    host: string;
    signals: Field[];
  }
  export interface UserData {
    hashed: { key: string; digests: string[] }[];
    fbp: string | null;
    fbc: string | null;
    clientUserAgent: string | null;
    clientIpAddress: string | null;
  }
  export interface Event {
    eventName: string;
    eventId: string | null;
    eventTime: number;
    eventSourceUrl: string | null;
    referrerUrl: string | null;
    actionSource: string;
    userData: UserData;
    customData: Field[];
    dataProcessingOptions: string[];
    optOut: boolean | null;
    appData: Field[];
    extra: Field[];
  }
  export type Edit =
    | { tag: "set"; val: { path: string; value: Scalar } }
    | { tag: "remove"; val: string }
    | { tag: "rename"; val: { path: string; to: string } };
  export type Verdict = { tag: "pass" } | { tag: "drop"; val: string } | { tag: "modify"; val: Edit[] };
}

declare module "pixelgate:filter/host@0.1.0" {
  export function log(level: "debug" | "info" | "warn" | "error", message: string): void;
}
