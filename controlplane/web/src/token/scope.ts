import { Scope } from "../gen/chom/account/v1/account_pb.js";

/** Scopes by their names, the least one first. */
export const scopes = { [Scope.READ]: "read", [Scope.DEPLOY]: "deploy", [Scope.MANAGE]: "manage" } as const;

export const scopeKey = (scope: Scope) => (scope === Scope.UNSPECIFIED ? "read" : scopes[scope]);

/** How long a token may work, in days; the API lets no more than the last. */
export const lifetimes = [7, 30, 90, 366] as const;

export const seconds = (days: number) => ({ seconds: BigInt(days) * 86_400n });
