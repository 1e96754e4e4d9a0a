import { readdirSync, readFileSync } from "node:fs";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Chomd, startChomd } from "./chomd.js";
import { connect } from "./client.js";

let chomd: Chomd;

beforeAll(async () => {
	chomd = await startChomd();
});
afterAll(() => chomd.stop());

test("a stranger is refused, by a code", async () => {
	const refused = await connect(chomd)
		.sites.listSites({})
		.catch((error: unknown) => ConnectError.from(error));
	expect(refused).toMatchObject({ code: Code.Unauthenticated });
});

test("the first operator makes an organization and reads it back", async () => {
	const made = await connect(chomd).accounts.createFirstOperator({ setupSecret: chomd.setupSecret, email: "operator@example.com" });
	const chom = connect({ baseUrl: chomd.baseUrl, token: made.token });
	await chom.organizations.createOrganization({ name: "acme", ownerEmail: "operator@example.com" });
	const { organizations } = await chom.organizations.listOrganizations({});
	expect(organizations.map(({ name }) => name)).toContain("acme");
});

test("each service of the public API has a client", () => {
	const generated = readdirSync(new URL("gen/chom", import.meta.url), { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith("_service_pb.ts"));
	const held = readFileSync(new URL("client.ts", import.meta.url), "utf8");
	expect(generated.length).toBeGreaterThan(15);
	for (const path of generated) expect(held, path).toContain(`./gen/chom/${path.replace(/ts$/, "js")}`);
	expect(Object.keys(connect({ baseUrl: "http://localhost" }))).toHaveLength(generated.length);
});
