// Follows a task: its state, steps and log lines as they come. A lost stream is opened again where it ended.
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { useTransport } from "@connectrpc/connect-query";
import { useEffect, useState } from "react";
import { away, heard, isCode, lost, queries } from "../api.js";
import { type LogLine, State, type Task } from "../gen/chom/task/v1/task_pb.js";
import { TaskService } from "../gen/chom/task/v1/task_service_pb.js";

/** ended says that nothing follows. */
export const ended = (state: State) => state === State.SUCCEEDED || state === State.FAILED || state === State.CANCELED || state === State.TIMED_OUT;

export interface Followed {
	task: Task | undefined;
	lines: readonly LogLine[];
	/** Whether what is shown is what is so. */
	live: "opening" | "live" | "lost" | "ended";
	/** Why it cannot be followed at all. */
	error: unknown;
}

/** More lines than this nobody reads in a page; the first ones give way. */
const maxLines = 5_000;
const waits = [500, 1_000, 2_000, 5_000];

/** Tells of each change until the task has ended or the signal says to stop. */
export async function follow(
	transport: Transport,
	task: { organizationId: string; taskId: string },
	signal: AbortSignal,
	tell: (now: Followed) => void,
	pause = sleep,
) {
	const client = createClient(TaskService, transport);
	let now: Followed = { task: undefined, lines: [], live: "opening", error: null };
	const change = (part: Partial<Followed>) => {
		now = { ...now, ...part };
		tell(now);
	};
	for (let tries = 0; !signal.aborted; tries++) {
		try {
			const afterLogSequence = now.lines.at(-1)?.sequence ?? 0n;
			for await (const message of client.watchTask({ ...task, afterLogSequence }, { signal })) {
				tries = 0;
				heard();
				const lines = message.logLines.length > 0 ? [...now.lines, ...message.logLines].slice(-maxLines) : now.lines;
				const last = message.task && ended(message.task.state);
				change({ task: message.task, lines, live: last ? "ended" : "live" });
				if (last) return;
			}
		} catch (error) {
			if (signal.aborted) return;
			if (refused(error)) return change({ error, live: "ended" });
			if (away(error)) lost();
		}
		if (signal.aborted) return;
		change({ live: "lost" });
		await pause(waits[Math.min(tries, waits.length - 1)] ?? 0, signal);
	}
}

const refused = (error: unknown) =>
	[Code.NotFound, Code.PermissionDenied, Code.Unauthenticated, Code.InvalidArgument].some((code) => isCode(ConnectError.from(error), code));

const sleep = (milliseconds: number, signal: AbortSignal) =>
	new Promise<void>((done) => {
		const timer = setTimeout(done, milliseconds);
		signal.addEventListener("abort", () => {
			clearTimeout(timer);
			done();
		});
	});

export function useFollowed(organizationId: string, taskId: string): Followed {
	const transport = useTransport();
	const [now, setNow] = useState<Followed>({ task: undefined, lines: [], live: "opening", error: null });
	useEffect(() => {
		const stop = new AbortController();
		setNow({ task: undefined, lines: [], live: "opening", error: null });
		void follow(transport, { organizationId, taskId }, stop.signal, (next) => {
			setNow(next);
			if (next.live === "ended") void queries.invalidateQueries(); // what the task was for is so now
		});
		return () => stop.abort();
	}, [transport, organizationId, taskId]);
	return now;
}
