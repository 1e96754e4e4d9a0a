// What an answer has to say, put on the points of a graph. It is pure.
import type { Series } from "../gen/chom/metric/v1/metric_service_pb.js";
import { milliseconds } from "../ui/format.js";
import type { Window } from "./range.js";

/** A value, or null where nothing was measured: that is no zero. */
export type Value = number | null;

export interface Line {
	name: string;
	values: Value[];
}

/** The moments of a window, in seconds. */
export const times = ({ start, end, step }: Window) => Array.from({ length: Math.floor((end - start) / step) + 1 }, (_, place) => start + place * step);

/** Each series as a line: those of the wanted names in their order, then all others by name. */
export function linesOf(series: readonly Series[], window: Window, wanted: readonly string[]): Line[] {
	const count = times(window).length;
	const lines = series.map(({ labels, points }) => {
		const values: Value[] = new Array(count).fill(null);
		for (const { time, value } of points) {
			const place = time ? Math.round((milliseconds(time) / 1000 - window.start) / window.step) : -1;
			if (place >= 0 && place < count && Number.isFinite(value)) values[place] = value;
		}
		return { name: labels.line ?? "", values };
	});
	const rank = (name: string) => (wanted.indexOf(name) + 1 || wanted.length + 1) - 1;
	return lines.filter(({ values }) => values.some((value) => value !== null)).sort((a, b) => rank(a.name) - rank(b.name) || a.name.localeCompare(b.name));
}

export interface Summary {
	least: number;
	mean: number;
	most: number;
	last: number;
}

/** A line in four figures; undefined where it has no value. */
export function summary(values: readonly Value[]): Summary | undefined {
	const known = values.filter((value) => value !== null);
	const last = known.at(-1);
	if (last === undefined) return undefined;
	return { least: Math.min(...known), mean: known.reduce((sum, value) => sum + value, 0) / known.length, most: Math.max(...known), last };
}

/** The part of the points at which no line has a value, 0 to 1. */
export function unmeasured(lines: readonly Line[], count: number): number {
	let missing = 0;
	for (let place = 0; place < count; place++) if (lines.every(({ values }) => (values[place] ?? null) === null)) missing++;
	return count === 0 ? 0 : missing / count;
}

/** The places of values that have none on either side: no line leads to them, so that they need a dot. */
export function alone(values: ArrayLike<number | null | undefined>): number[] {
	const places: number[] = [];
	for (let place = 0; place < values.length; place++)
		if ((values[place] ?? null) !== null && (values[place - 1] ?? null) === null && (values[place + 1] ?? null) === null) places.push(place);
	return places;
}
