// Moments, spans and sizes in words. They are pure: the moment it is now, the language and the zone are arguments.
import type { Timestamp } from "@bufbuild/protobuf/wkt";

export const milliseconds = (time: Timestamp) => Number(time.seconds) * 1000 + Math.floor(time.nanos / 1e6);

const units = [
	["day", 86_400],
	["hour", 3_600],
	["minute", 60],
	["second", 1],
] as const;

/** "3 minutes ago", "in 2 days"; a date when that is more than a week away. */
export function relative(at: number, now: number, language: string): string {
	const seconds = Math.round((at - now) / 1000);
	if (Math.abs(seconds) > 7 * 86_400) return new Intl.DateTimeFormat(language, { dateStyle: "medium" }).format(at);
	const [unit, length] = units.find(([, length]) => Math.abs(seconds) >= length) ?? (["second", 1] as const);
	if (unit === "second" && Math.abs(seconds) < 10) return new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(0, "second");
	return new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(Math.trunc(seconds / length), unit);
}

/** The moment in a zone, to the second. */
export const moment = (at: number, language: string, timeZone: string) =>
	new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium", timeZone }).format(at);

/** The moment in the reader's zone and in UTC. */
export const precise = (at: number, language: string, zone: string) => `${moment(at, language, zone)} ${zone} · ${moment(at, language, "UTC")} UTC`;

/** "850 ms", "12.3 s", "4 min 10 s". */
export function span(took: number): string {
	if (took < 1_000) return `${Math.max(0, Math.round(took))} ms`;
	if (took < 60_000) return `${(took / 1000).toFixed(1)} s`;
	const minutes = Math.floor(took / 60_000);
	return minutes < 60 ? `${minutes} min ${Math.floor((took % 60_000) / 1000)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const sizes = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"] as const;

/** "1.4 GB", by powers of 1000 as disks are sold. */
export function bytes(count: bigint, language: string): string {
	let value = Number(count);
	let power = 0;
	while (value >= 1000 && power < sizes.length - 1) {
		value /= 1000;
		power++;
	}
	return new Intl.NumberFormat(language, {
		style: "unit",
		unit: sizes[power] ?? "byte",
		unitDisplay: power === 0 ? "long" : "short",
		maximumFractionDigits: value < 10 && power > 0 ? 1 : 0,
	}).format(value);
}
