// The shape of a sparkline. It is pure.
import type { Point } from "../gen/chom/metric/v1/metric_service_pb.js";
import { milliseconds } from "../ui/format.js";

export interface Spark {
	/** Of an SVG's path, in a box of 100 by 24. */
	path: string;
	last: number;
	most: number;
}

const points = 60; // at most, as the API promises

/** Draws a course over the seconds before now, up to whole or to its own most. Where points are missing the line is, too. */
export function sparkOf(course: readonly Point[], now: number, window: number, whole = 0): Spark | undefined {
	const known = course.flatMap(({ time, value }) => (time && Number.isFinite(value) ? [{ at: milliseconds(time) / 1000, value }] : []));
	const last = known.at(-1);
	if (!last) return undefined;
	const most = Math.max(...known.map(({ value }) => value));
	const top = Math.max(whole, most) || 1;
	const path: string[] = [];
	let former = Number.NEGATIVE_INFINITY;
	for (const { at, value } of known) {
		const x = Math.min(100, Math.max(0, 100 + ((at - now) / window) * 100)).toFixed(1);
		const y = (22.5 - (value / top) * 21).toFixed(1);
		path.push(at - former > (1.5 * window) / points ? `M${x} ${y}h.01` : `L${x} ${y}`);
		former = at;
	}
	return { path: path.join(""), last: last.value, most };
}
