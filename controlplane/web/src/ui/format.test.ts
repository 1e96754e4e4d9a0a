import { expect, test } from "vitest";
import { bytes, precise, relative, span } from "./format.js";

const now = Date.UTC(2026, 10, 26, 17, 20);
const second = 1_000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

test.each([
	[now, "now"],
	[now - 9 * second, "now"],
	[now - 30 * second, "30 seconds ago"],
	[now - 90 * second, "1 minute ago"],
	[now - 59 * minute, "59 minutes ago"],
	[now - 23 * hour, "23 hours ago"],
	[now - 1.9 * day, "yesterday"],
	[now + 2 * day, "in 2 days"],
	[now - 8 * day, "Nov 18, 2026"],
])("%d is %s", (at, want) => expect(relative(at, now, "en")).toBe(want));

test("a moment is in the reader's zone and in UTC", () => {
	expect(precise(now, "en-GB", "Europe/Berlin")).toBe("26 Nov 2026, 18:20:00 Europe/Berlin · 26 Nov 2026, 17:20:00 UTC");
});

test.each([
	[-5, "0 ms"],
	[850, "850 ms"],
	[12_340, "12.3 s"],
	[250_000, "4 min 10 s"],
	[2 * hour + 5 * minute, "2 h 5 min"],
])("%d ms are %s", (took, want) => expect(span(took)).toBe(want));

test.each([
	[0n, "0 bytes"],
	[999n, "999 bytes"],
	[1_400_000_000n, "1.4 GB"],
	[52_000_000_000n, "52 GB"],
	[9_000_000_000_000_000n, "9,000 TB"],
])("%d bytes are %s", (count, want) => expect(bytes(count, "en")).toBe(want));
