import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { SeriesSchema } from "../gen/chom/metric/v1/metric_service_pb.js";
import { alone, linesOf, summary, times, unmeasured } from "./series.js";

const window = { start: 600, end: 900, step: 60, live: true };
const series = (line: string, ...points: [number, number][]) =>
	create(SeriesSchema, { labels: { line }, points: points.map(([at, value]) => ({ time: { seconds: BigInt(at), nanos: 400 }, value })) });

test("points lie on their moments, and what was not measured is null, never zero", () => {
	expect(times(window)).toEqual([600, 660, 720, 780, 840, 900]);
	expect(linesOf([series("in", [600, 0], [660, 2], [900, 4], [960, 9])], window, [])).toEqual([{ name: "in", values: [0, 2, null, null, null, 4] }]);
});

test("what is no number is not measured, and a line without any value is none", () => {
	const lines = linesOf([series("a", [600, Number.NaN], [660, 1], [720, Number.POSITIVE_INFINITY]), series("b", [600, Number.NaN]), series("c")], window, []);
	expect(lines).toEqual([{ name: "a", values: [null, 1, null, null, null, null] }]);
});

test("wanted lines come in their order, others behind them by name", () => {
	const all = ["/var", "5xx", "2xx", "/"].map((name) => series(name, [600, 1]));
	expect(linesOf(all, window, ["2xx", "3xx", "5xx"]).map(({ name }) => name)).toEqual(["2xx", "5xx", "/", "/var"]);
});

test("a summary knows only what was measured", () => {
	expect(summary([null, 4, null, 1, 7, null])).toEqual({ least: 1, mean: 4, most: 7, last: 7 });
	expect(summary([null, null])).toBeUndefined();
});

test("the unmeasured part is where no line has a value", () => {
	expect(unmeasured([{ name: "a", values: [1, null, null, null] }], 4)).toBe(0.75);
	expect(
		unmeasured(
			[
				{ name: "a", values: [1, null, null, null] },
				{ name: "b", values: [null, 0, null, null] },
			],
			4,
		),
	).toBe(0.5);
	expect(unmeasured([], 4)).toBe(1);
});

test("a value between two gaps is found", () => {
	expect(alone([1, null, 2, null, 3, 4, null])).toEqual([0, 2]);
	expect(alone([undefined, 5])).toEqual([1]);
});
