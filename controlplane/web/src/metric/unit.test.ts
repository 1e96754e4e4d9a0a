import { expect, test } from "vitest";
import { inWords, moment } from "./unit.js";

test.each([
	[0.1234, "ratio", "12%"],
	[0.0042, "ratio", "0.4%"],
	[1_400_000_000, "bytes", "1.4 GB"],
	[3_200.4, "bytesPerSecond", "3.2 kB/s"],
	[41.26, "perMinute", "41.3/min"],
	[0.054, "perMinute", "0.05/min"],
	[12_345.6, "perMinute", "12,346/min"],
	[0.12, "seconds", "120 ms"],
	[2.5, "seconds", "2.5 s"],
	[0.853, "number", "0.85"],
] as const)("%d as %s is %s", (value, unit, want) => expect(inWords(value, unit, "en")).toBe(want));

test("a moment has its day where the span is longer than one", () => {
	const at = Date.UTC(2026, 10, 27, 12) / 1000;
	expect(moment(at, 3_600, "en-GB")).toMatch(/^\d\d:00$/);
	expect(moment(at, 7 * 86_400, "en-GB")).toMatch(/^27 Nov, \d\d:00$/);
});
