// Which span of time graphs show. It is in the address: a span up to now, which goes on by itself, or one that somebody zoomed to.

export const spans = { "1h": 3_600, "24h": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400 } as const;
export type Span = keyof typeof spans;

/** What the address says of it, in seconds since 1970. */
export interface Range {
	range?: Span;
	from?: number;
	to?: number;
}

/** A span in points: the first at start, the last at end, in seconds. */
export interface Window {
	start: number;
	end: number;
	step: number;
	/** It ends now, and goes on. */
	live: boolean;
}

/** The least that can be zoomed to: hosts report once a minute. */
export const least = 300;

/** Reads what an address says; what makes no sense is left out. */
export function rangeOf(search: Record<string, unknown>): Range {
	const range = Object.keys(spans).find((name): name is Span => name === search.range);
	const [from, to] = [Number(search.from), Number(search.to)];
	const zoomed = Number.isInteger(from) && Number.isInteger(to) && from > 0 && to - from >= least && to - from <= 366 * 86_400;
	return { ...(range && { range }), ...(zoomed && { from, to }) };
}

const steps = [30, 60, 120, 300, 900, 1_800, 3_600, 7_200, 21_600, 86_400];

/** The points of a range. They lie on whole steps, so that a later look at the same span finds the same ones. */
export function windowOf({ range = "1h", from, to }: Range, now: number): Window {
	const zoomed = from !== undefined && to !== undefined;
	const last = zoomed ? Math.min(to, now) : now;
	const first = zoomed ? Math.min(from, last - least) : now - spans[range];
	const step = steps.find((step) => (last - first) / step <= 800) ?? 86_400;
	return { start: Math.ceil(first / step) * step, end: Math.floor(last / step) * step, step, live: !zoomed };
}

/** The span of the same length before, or after; up to now it is the one that goes on. */
export function moved(range: Range, by: -1 | 1, now: number): Range {
	const { start, end } = windowOf(range, now);
	const length = Math.max(least, end - start);
	const [from, to] = [start + by * length, start + (by + 1) * length];
	const kept = range.range && { range: range.range };
	return now - to < length / 10 ? { ...kept } : { ...kept, from: Math.round(from), to: Math.round(to) };
}

/** What a person chose by dragging over a graph, no narrower than there can be values. */
export function zoomed(range: Range, from: number, to: number): Range {
	const wider = Math.max(0, least - (to - from)) / 2;
	return { ...(range.range && { range: range.range }), from: Math.floor(from - wider), to: Math.ceil(to + wider) };
}
