// Values in words, with what they are measured in.
import { bytes, span } from "../ui/format.js";

export type Unit = "ratio" | "bytes" | "bytesPerSecond" | "perMinute" | "seconds" | "number";

/** As many digits as tell two values apart, and no more. */
const digits = (value: number) => (Math.abs(value) >= 100 || value === 0 ? 0 : Math.abs(value) >= 10 ? 1 : 2);

/** "12.5 %", "1.4 GB", "3.2 kB/s", "41/min", "120 ms", "0.85". */
export function inWords(value: number, unit: Unit, language: string): string {
	const number = (value: number) => new Intl.NumberFormat(language, { maximumFractionDigits: digits(value) }).format(value);
	switch (unit) {
		case "ratio":
			return new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: Math.abs(value) < 0.1 ? 1 : 0 }).format(value);
		case "bytes":
			return bytes(BigInt(Math.round(value)), language);
		case "bytesPerSecond":
			return `${bytes(BigInt(Math.round(value)), language)}/s`;
		case "perMinute":
			return `${number(value)}/min`;
		case "seconds":
			return span(value * 1000);
		case "number":
			return number(value);
	}
}

/** A moment as short as a span of that many seconds lets it be. */
export function moment(at: number, length: number, language: string): string {
	const day = length > 86_400 ? ({ day: "numeric", month: "short" } as const) : {};
	return new Intl.DateTimeFormat(language, { ...day, hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(at * 1000);
}
