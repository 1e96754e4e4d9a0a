import { expect, test } from "vitest";
import { moved, rangeOf, windowOf, zoomed } from "./range.js";

const now = 1_764_200_007;

test.each([
	[{}, {}],
	[{ range: "7d" }, { range: "7d" }],
	[{ range: "a year" }, {}],
	[
		{ range: "24h", from: "1764190000", to: "1764193600" },
		{ range: "24h", from: 1764190000, to: 1764193600 },
	],
	[{ from: "1764193600", to: "1764190000" }, {}],
	[{ from: "1764190000", to: "1764190010" }, {}], // less than there are values for
	[{ from: "1764190000" }, {}],
	[{ from: "x", to: "1e99" }, {}],
])("an address with %o says %o", (search, want) => expect(rangeOf(search)).toEqual(want));

test.each(["1h", "24h", "7d", "30d"] as const)("%s ends now, and its points lie on whole steps", (range) => {
	const { start, end, step, live } = windowOf({ range }, now);
	expect(live).toBe(true);
	expect(start % step).toBe(0);
	expect(end % step).toBe(0);
	expect(now - end).toBeLessThan(step);
	expect((end - start) / step).toBeGreaterThan(100);
	expect((end - start) / step).toBeLessThanOrEqual(800);
});

test("an hour is shown unless somebody says otherwise", () => expect(windowOf({}, now)).toEqual(windowOf({ range: "1h" }, now)));

test("what was zoomed to stands still, and does not reach beyond now", () => {
	expect(windowOf({ from: now - 7_200, to: now - 3_600 }, now)).toMatchObject({ step: 30, live: false });
	expect(windowOf({ from: now - 7_200, to: now + 3_600 }, now).end).toBeLessThanOrEqual(now);
	const future = windowOf({ from: now + 100, to: now + 3_600 }, now);
	expect(future.end).toBeGreaterThan(future.start);
});

test("one goes back and forth by what is shown, and forth as far as now", () => {
	const before = moved({ range: "24h" }, -1, now);
	expect(before.range).toBe("24h");
	expect((before.to ?? 0) - (before.from ?? 0)).toBeGreaterThan(86_000);
	expect(now - (before.to ?? 0)).toBeGreaterThan(86_000);
	expect(moved(before, 1, now)).toEqual({ range: "24h" });
});

test("dragging over less than there are values for takes in some more", () => {
	const { from = 0, to = 0 } = zoomed({ range: "7d" }, 1000, 1010);
	expect(to - from).toBeGreaterThanOrEqual(300);
	expect(zoomed({}, 1000.5, 9000.5)).toEqual({ from: 1000, to: 9001 });
});
