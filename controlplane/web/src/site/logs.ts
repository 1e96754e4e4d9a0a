// Follows what a site logs, as its server writes it. A lost stream is opened again, and goes on where it ended.
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { useTransport } from "@connectrpc/connect-query";
import { useEffect, useState } from "react";
import { away, heard, isCode, lost } from "../api.js";
import type { LogLine, LogSource } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { milliseconds } from "../ui/format.js";

export interface Line {
	/** Counts what came since the page was opened. */
	number: number;
	source: LogSource;
	at: number;
	text: string;
	/** How many lines before it its server left out. */
	leftOut: number;
}

export interface Logs {
	lines: readonly Line[];
	/** Whether what is shown is what is so; away says that it is the site's server that is not there, full that too many look. */
	live: "opening" | "live" | "lost" | "away" | "full" | "refused";
	/** Why they cannot be looked at at all. */
	error: unknown;
}

/** More lines than this nobody reads in a page; the first ones give way. */
export const maxLines = 2_000;
const firstLines = 100;
const waits = [500, 1_000, 2_000, 5_000];
const nothing: Logs = { lines: [], live: "opening", error: null };

/** Tells of new lines until the signal says to stop, or they may not be looked at. */
export async function followLogs(
	transport: Transport,
	site: { organizationId: string; siteId: string },
	signal: AbortSignal,
	tell: (now: Logs) => void,
	pause = sleep,
) {
	const client = createClient(SiteService, transport);
	let now = nothing;
	let number = 0;
	const change = (part: Partial<Logs>) => {
		now = { ...now, ...part };
		tell(now);
	};
	for (let tries = 0; !signal.aborted; tries++) {
		try {
			let first = true;
			for await (const message of client.watchLogs({ ...site, lines: firstLines }, { signal })) {
				tries = 0;
				heard();
				const fresh = first ? inOrder(unseen(now.lines, message.lines)) : message.lines;
				first = false;
				const lines = fresh.map((line) => ({ number: number++, source: line.source, at: moment(line), text: line.text, leftOut: line.leftOut }));
				if (lines.length > 0 || now.live !== "live") change({ lines: [...now.lines, ...lines].slice(-maxLines), live: "live" });
			}
			if (signal.aborted) return;
			change({ live: "lost" });
		} catch (error) {
			if (signal.aborted) return;
			if (refused(error)) return change({ error, live: "refused" });
			change({ live: trouble(error) });
			if (now.live === "lost" && away(error)) lost();
		}
		await pause(waits[Math.min(tries, waits.length - 1)] ?? 0, signal);
	}
}

const moment = ({ time }: LogLine) => (time ? milliseconds(time) : 0);

/** The last lines come log by log. */
const inOrder = (lines: readonly LogLine[]) => lines.toSorted((a, b) => moment(a) - moment(b));

/** Those of a new stream's first lines that were not there before, of each log by itself. */
function unseen(seen: readonly Line[], lines: readonly LogLine[]): readonly LogLine[] {
	const behind = new Map<LogSource, number>();
	lines.forEach((line, place) => {
		const last = seen.findLast(({ source }) => source === line.source);
		if (last && last.text === line.text && last.at === moment(line)) behind.set(line.source, place + 1);
	});
	return lines.filter(({ source }, place) => place >= (behind.get(source) ?? 0));
}

const refused = (error: unknown) =>
	[Code.NotFound, Code.PermissionDenied, Code.Unauthenticated, Code.InvalidArgument].some((code) => isCode(ConnectError.from(error), code));

/** What keeps lines from coming, by what was said. A control plane that answers no one says nothing. */
function trouble(error: unknown): "lost" | "away" | "full" {
	if (isCode(error, Code.ResourceExhausted)) return "full";
	return isCode(error, Code.Unavailable) && !((error as ConnectError).cause instanceof TypeError) ? "away" : "lost";
}

const sleep = (milliseconds: number, signal: AbortSignal) =>
	new Promise<void>((done) => {
		const timer = setTimeout(done, milliseconds);
		signal.addEventListener("abort", () => {
			clearTimeout(timer);
			done();
		});
	});

export function useLogs(organizationId: string, siteId: string): Logs {
	const transport = useTransport();
	const [now, setNow] = useState(nothing);
	useEffect(() => {
		const stop = new AbortController();
		setNow(nothing);
		void followLogs(transport, { organizationId, siteId }, stop.signal, setNow);
		return () => stop.abort();
	}, [transport, organizationId, siteId]);
	return now;
}

/** The lines of the logs that are chosen, with a text in them. */
export function filterLines(lines: readonly Line[], sources: ReadonlySet<LogSource>, text: string): readonly Line[] {
	const wanted = text.trim().toLowerCase();
	return lines.filter((line) => sources.has(line.source) && (wanted === "" || line.text.toLowerCase().includes(wanted)));
}
