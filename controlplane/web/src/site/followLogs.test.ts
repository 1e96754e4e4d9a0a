// @vitest-environment jsdom
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { LogSource } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { filterLines, followLogs, type Logs, maxLines } from "./logs.js";

const line = (text: string, seconds: number, source = LogSource.ACCESS) => ({ source, text, time: { seconds: BigInt(seconds), nanos: 0 } });

/** Follows logs whose streams go, one after the other, as they are told to. */
async function followed(...streams: (() => AsyncGenerator<object>)[]) {
	const told: Logs[] = [];
	const waited: number[] = [];
	const transport = createRouterTransport(({ service }) => {
		service(SiteService, {
			watchLogs() {
				const next = streams.shift();
				if (!next) throw new ConnectError("asked once too often", Code.NotFound);
				return next() as never;
			},
		});
	});
	await followLogs(
		transport,
		{ organizationId: "o", siteId: "s" },
		new AbortController().signal,
		(now) => told.push(now),
		async (milliseconds) => {
			waited.push(milliseconds);
		},
	);
	return { told, waited, texts: told.at(-1)?.lines.map(({ text }) => text) };
}

test("the last lines of all logs stand in the order of their times, and new ones behind them", async () => {
	const { texts, told } = await followed(async function* () {
		yield { lines: [line("a", 1), line("c", 3), line("b", 2, LogSource.ERROR)] };
		yield { lines: [] };
		yield { lines: [line("d", 4)] };
	});
	expect(texts).toEqual(["a", "b", "c", "d"]);
	expect(told.map(({ live }) => live)).toEqual(["live", "live", "lost", "refused"]);
});

test("a server that is away shows, and its logs go on where they ended, log by log", async () => {
	const { texts, told, waited } = await followed(
		async function* () {
			yield { lines: [line("a", 1), line("b", 2), line("x", 1, LogSource.PHP)] };
			throw new ConnectError("the site's server is not connected", Code.Unavailable);
		},
		// biome-ignore lint/correctness/useYield: it never gets that far
		async function* () {
			throw new ConnectError("too many people look", Code.ResourceExhausted);
		},
		async function* () {
			yield { lines: [line("b", 2), line("c", 3), line("x", 1, LogSource.PHP), line("y", 4, LogSource.PHP)] };
		},
	);
	expect(texts).toEqual(["a", "x", "b", "c", "y"]);
	expect(told.map(({ live }) => live)).toEqual(["live", "away", "full", "live", "lost", "refused"]);
	expect(waited).toEqual([500, 1_000, 500]);
});

test("what scrolled by while it was lost is not missed", async () => {
	const { texts } = await followed(
		async function* () {
			yield { lines: [line("a", 1)] };
		},
		async function* () {
			yield { lines: [line("y", 8), line("z", 9)] };
		},
	);
	expect(texts).toEqual(["a", "y", "z"]);
});

test("only so many lines are kept", async () => {
	const { told } = await followed(async function* () {
		for (let i = 0; i < 12; i++) yield { lines: Array.from({ length: 200 }, (_, n) => line(`${i * 200 + n}`, i)) };
	});
	const lines = told.at(-1)?.lines ?? [];
	expect(lines.length).toBe(maxLines);
	expect(lines.at(-1)?.text).toBe("2399");
	expect(new Set(lines.map(({ number }) => number)).size).toBe(maxLines);
});

test("lines are chosen by their log and a text in them", async () => {
	const { told } = await followed(async function* () {
		yield { lines: [line("GET /a", 1), line("GET /b", 1), line("open() /a failed", 1, LogSource.ERROR)] };
	});
	const lines = told.at(-1)?.lines ?? [];
	const chosen = (sources: LogSource[], text: string) => filterLines(lines, new Set(sources), text).map((one) => one.text);
	expect(chosen([LogSource.ACCESS, LogSource.ERROR], " /A ")).toEqual(["GET /a", "open() /a failed"]);
	expect(chosen([LogSource.ERROR], "")).toEqual(["open() /a failed"]);
	expect(chosen([], "")).toEqual([]);
});
