// How pages reach the control plane: by the session's cookie, or while an operator acts as somebody by a token. What every call goes through
// is here.
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-web";
import { MutationCache, QueryClient } from "@tanstack/react-query";
import { store } from "./ui/store.js";

/** When the control plane last answered, and since when it does not; undefined while it does. */
export const connection = store<{ heardAt: number; lostSince: number | undefined }>({ heardAt: Date.now(), lostSince: undefined });

/** away says that nobody answered: what was asked may succeed as it is, later. */
export function away(error: unknown): boolean {
	if (!(error instanceof ConnectError)) return error instanceof TypeError; // fetch's own
	return error.code === Code.Unavailable || (error.code === Code.Unknown && error.cause instanceof TypeError);
}

export const isCode = (error: unknown, code: Code) => error instanceof ConnectError && error.code === code;

/** An answer, be it a refusal, shows that the control plane is there. */
export function heard() {
	connection.set({ heardAt: Date.now(), lostSince: undefined });
}

/** Nobody answered. */
export function lost() {
	const { heardAt, lostSince } = connection.get();
	connection.set({ heardAt, lostSince: lostSince ?? Date.now() });
}

const listen: Interceptor = (next) => async (request) => {
	try {
		const answer = await next(request);
		heard();
		return answer;
	} catch (error) {
		if (away(error)) lost();
		else if (!isCode(error, Code.Canceled)) heard();
		throw error;
	}
};

/** A question whether the person is still there; answer it with true once they have proved it. */
export const proof = store<((given: boolean) => void) | undefined>(undefined);

/** stale says that a call wants a fresh proof of who sits there. */
export function stale(error: unknown): boolean {
	return (
		error instanceof ConnectError &&
		error.details.some(
			(detail) => "type" in detail && detail.type === "google.rpc.ErrorInfo" && new TextDecoder().decode(detail.value).includes("STEP_UP_REQUIRED"),
		)
	);
}

// Calls that want a fresh proof wait for it and go on: no page has to know which ones they are.
const prove: Interceptor = (next) => async (request) => {
	try {
		return await next(request);
	} catch (error) {
		if (!stale(error) || request.stream) throw error;
		const given = await new Promise<boolean>((answer) => proof.set(answer));
		proof.set(undefined);
		if (!given) throw new ConnectError("nothing was done: it was not confirmed", Code.Aborted);
		return next(request);
	}
};

/** Whom an operator acts as, in this page alone: the secret is nowhere else, and gone with the page. */
export interface Acting {
	secret: string;
	tokenId: string;
	email: string;
	organizationId: string;
	organization: string;
	/** When its time is over, in milliseconds. */
	until: number;
	/** It has ended: nothing is asked in their name any more, and until the page is loaded anew nothing in the operator's own. */
	over?: true;
}

export const acting = store<Acting | undefined>(undefined);

const act: Interceptor = (next) => async (request) => {
	const as = acting.get();
	if (!as || request.method.name === "EndImpersonation") return next(request); // to end it is the operator's own
	if (as.over) throw new ConnectError("acting for somebody else has ended", Code.Unauthenticated);
	request.header.set("Authorization", `Bearer ${as.secret}`);
	try {
		return await next(request);
	} catch (error) {
		if (isCode(error, Code.Unauthenticated)) acting.set({ ...as, over: true });
		throw error;
	}
};

export const transport = createConnectTransport({ baseUrl: globalThis.location.origin, useBinaryFormat: true, interceptors: [prove, act, listen] });

/** How often what is shown is asked for again. */
export const every = 5_000;

export const queries: QueryClient = new QueryClient({
	defaultOptions: {
		// Asking again every few seconds is the retry; until then the last answer stays and the frame says that it is old.
		queries: { refetchInterval: every, retry: false, staleTime: 1_000, networkMode: "always" },
		mutations: { networkMode: "always" },
	},
	// What somebody did shows at once, wherever it shows.
	mutationCache: new MutationCache({ onSuccess: () => void queries.invalidateQueries() }),
});
