// @vitest-environment jsdom
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { expect, test } from "vitest";
import { State } from "../gen/chom/task/v1/task_pb.js";
import { TaskService, type WatchTaskRequest } from "../gen/chom/task/v1/task_service_pb.js";
import { type Followed, follow } from "./follow.js";

const line = (sequence: bigint) => ({ sequence, text: `line ${sequence}` });

/** Follows a task whose streams go, one after the other, as they are told to. */
async function followed(...streams: ((request: WatchTaskRequest) => AsyncGenerator<object>)[]) {
	const asked: bigint[] = [];
	const waited: number[] = [];
	const told: Followed[] = [];
	const transport = createRouterTransport(({ service }) => {
		service(TaskService, {
			watchTask(request) {
				asked.push(request.afterLogSequence);
				const next = streams.shift();
				if (!next) throw new ConnectError("asked once too often", Code.NotFound);
				return next(request) as never;
			},
		});
	});
	await follow(
		transport,
		{ organizationId: "o", taskId: "t" },
		new AbortController().signal,
		(now) => told.push(now),
		async (milliseconds) => {
			waited.push(milliseconds);
		},
	);
	return { asked, waited, told };
}

test("steps and lines are told as they come, until the task has ended", async () => {
	const { told, waited } = await followed(async function* () {
		yield { task: { state: State.RUNNING }, logLines: [line(1n)] };
		yield { task: { state: State.RUNNING }, logLines: [] };
		yield { task: { state: State.SUCCEEDED }, logLines: [line(2n)] };
	});
	expect(told.map(({ live }) => live)).toEqual(["live", "live", "ended"]);
	expect(told.at(-1)?.lines.map(({ text }) => text)).toEqual(["line 1", "line 2"]);
	expect(waited).toEqual([]);
});

test("a lost stream shows, and goes on where it ended", async () => {
	const { told, asked, waited } = await followed(
		async function* () {
			yield { task: { state: State.RUNNING }, logLines: [line(1n), line(2n)] };
			throw new ConnectError("going down", Code.Unavailable);
		},
		// biome-ignore lint/correctness/useYield: it never gets that far
		async function* () {
			throw new ConnectError("not there yet", Code.Unavailable);
		},
		async function* () {
			yield { task: { state: State.FAILED }, logLines: [line(3n)] };
		},
	);
	expect(asked).toEqual([0n, 2n, 2n]);
	expect(told.map(({ live }) => live)).toEqual(["live", "lost", "lost", "ended"]);
	expect(told.at(-1)?.lines.map(({ text }) => text)).toEqual(["line 1", "line 2", "line 3"]);
	expect(waited).toEqual([500, 1_000]); // longer each time
});

test("who may not see it is told so, and it is not asked for again", async () => {
	// biome-ignore lint/correctness/useYield: it never gets that far
	const { told, asked } = await followed(async function* () {
		throw new ConnectError("no such task", Code.NotFound);
	});
	expect(asked).toEqual([0n]);
	expect(told.at(-1)).toMatchObject({ live: "ended", error: { code: Code.NotFound } });
});
