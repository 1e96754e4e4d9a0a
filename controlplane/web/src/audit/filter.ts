// Which events are asked for. The address of the page holds it, so that it can be shared and gone back to.
// What the router reads comes with the first page: the rest is in request.ts.

export interface Filter {
	actor?: string;
	action?: string;
	object?: string;
	outcome?: "done" | "refused";
	/** In the reader's zone, as an input of a moment gives it. */
	from?: string;
	to?: string;
}

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The rules of the API: what keeps none of them is left out, rather than refused. */
const rules: Record<keyof Filter, (text: string) => boolean> = {
	actor: (text) => uuid.test(text),
	action: (text) => /^[a-z_.]{1,64}$/.test(text),
	object: (text) => /^[A-Za-z0-9:.][A-Za-z0-9:._-]{0,63}$/.test(text),
	outcome: (text) => text === "done" || text === "refused",
	from: (text) => moment(text) !== undefined,
	to: (text) => moment(text) !== undefined,
};

/** Reads a filter from an address, or from what was typed. */
export function toFilter(words: Record<string, unknown>): Filter {
	return Object.fromEntries(Object.entries(rules).flatMap(([key, holds]) => (typeof words[key] === "string" && holds(words[key]) ? [[key, words[key]]] : [])));
}

/** A moment in the reader's zone. */
export function moment(text: string | undefined): Date | undefined {
	if (!text || !/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?$/.test(text)) return undefined;
	const date = new Date(text);
	return Number.isNaN(date.getTime()) ? undefined : date;
}
