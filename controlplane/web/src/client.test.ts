import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";
import { connect } from "./client.js";

// A real control plane: CHOMD names its program.
const program = process.env.CHOMD ?? "";
const listen = "127.0.0.1:18089";
const baseUrl = `http://${listen}`;
let folder: string;
let chomd: ChildProcess;
let secret = "";

beforeAll(async () => {
	folder = await mkdtemp(join(tmpdir(), "chom-web-"));
	chomd = spawn(program, ["serve", "--data-dir", folder, "--people-listen", listen, "--agents-listen", "127.0.0.1:18444", "--agent-address", "127.0.0.1:18444"]);
	for await (const line of createInterface({ input: chomd.stdout ?? process.stdin })) {
		const found = /chomsetup_[A-Za-z0-9_-]+/.exec(line);
		if (found) {
			secret = found[0];
			break;
		}
	}
	for (let tries = 0; tries < 100; tries++) {
		const answer = await fetch(`${baseUrl}/readyz`).catch(() => undefined);
		if (answer?.ok) return;
		await new Promise((done) => setTimeout(done, 100));
	}
	throw new Error("chomd did not start");
}, 30_000);

afterAll(async () => {
	chomd.kill();
	await new Promise((done) => chomd.once("exit", done));
	await rm(folder, { recursive: true });
});

test("a stranger is refused, by a code", async () => {
	const refused = await connect({ baseUrl }).sites.listSites({}).catch((error: unknown) => ConnectError.from(error));
	expect(refused).toMatchObject({ code: Code.Unauthenticated });
});

test("the first operator makes an organization and reads it back", async () => {
	const made = await connect({ baseUrl }).accounts.createFirstOperator({
		setupSecret: secret,
		email: "operator@example.com",
		password: "a long and unlikely password",
	});
	const chom = connect({ baseUrl, token: made.token });
	await chom.organizations.createOrganization({ name: "acme", ownerEmail: "operator@example.com" });
	const { organizations } = await chom.organizations.listOrganizations({});
	expect(organizations.map(({ name }) => name)).toContain("acme");
});
