// A name that leads elsewhere so far: what is in the way is said with the record that proves who holds it.
import { createSocket } from "node:dgram";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { startChomd } from "./chomd.js";
import { connect } from "./client.js";
import { type Swarm, startSwarm } from "./swarm.js";
import { password, walk } from "./walk.js";

const name = "www.shop.example";
const before = "198.51.100.7";

/** A name server that knows one address, of one name. */
const dns = createSocket("udp4");
dns.on("message", (question, { address, port }) => {
	const end = question.indexOf(0, 12) + 1; // of the name
	const asked = [...question.subarray(12, end - 1)].map((octet) => (octet < 64 ? "." : String.fromCharCode(octet))).join("");
	const found = asked.toLowerCase().replace(/^\./, "") === name;
	const answer = found && question.readUInt16BE(end) === 1;
	const head = Buffer.from(question.subarray(0, end + 4));
	head.writeUInt16BE(found ? 0x8180 : 0x8183, 2); // or there is no such name
	for (const [place, count] of [1, answer ? 1 : 0, 0, 0].entries()) head.writeUInt16BE(count, 4 + 2 * place);
	const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...before.split(".").map(Number)]);
	dns.send(Buffer.concat([head, ...(answer ? [record] : [])]), port, address);
});

const here = walk({
	begin: async () => {
		await new Promise<void>((done) => dns.bind(0, "127.0.0.1", done));
		// Simulated servers stand at addresses that nobody has: here they count as public.
		return startChomd({ flags: ["--resolver", `127.0.0.1:${dns.address().port}`, "--outbound-allow", "192.0.2.0/24"] });
	},
});

let swarm: Swarm | undefined;
let page = "";

beforeAll(async () => {
	const owner = { email: "operator@example.com", password };
	const { token } = await connect(here.chomd).accounts.createFirstOperator({ setupSecret: here.chomd.setupSecret, ...owner });
	const api = connect({ baseUrl: here.chomd.baseUrl, token });
	const { server, joinToken } = await api.servers.createServer({ name: "web-1" });
	swarm = await startSwarm(here.chomd.agentAddress, [joinToken?.token ?? ""], "50ms");
	const ready = async () => (await api.servers.getServer({ serverId: server?.id ?? "" })).server?.facts?.prepared;
	await vi.waitUntil(ready, { timeout: 60_000, interval: 200 });
	const organizationId = (await api.organizations.createOrganization({ name: "acme" })).organization?.id ?? "";
	const { site } = await api.sites.createSite({ organizationId, name: "shop", type: "static", domains: [name] });
	await api.claims.createClaim({ organizationId, name });
	page = `/o/${organizationId}/sites/${site?.id}?tab=names`;
	await here.go("/login");
	await here.fill("E-mail address", owner.email);
	await here.fill("Password", password);
	await here.press("Sign in");
	await here.title("acme");
}, 120_000);
afterAll(async () => {
	await swarm?.stop();
	dns.close();
});

test("what is to be replaced is said before it is", async () => {
	await here.go(page);
	await here.says(`The organization does not hold it yet: set the record that proves its claim; it leads to ${before} so far.`);
	await here.says("Change these records in your DNS:");
	const records = here.page.getByRole("table", { name: `Records of ${name}` });
	await records.getByRole("row", { name: /^Add TXT / }).waitFor();
	await records
		.getByRole("row", { name: `Take away A ${name}` })
		.getByText(before)
		.waitFor();
	await records
		.getByRole("row", { name: `Add A ${name}` })
		.getByText("192.0.2.1")
		.waitFor();
	await here.sound("site-names-instead");
});

test("no script failed, and nothing was refused by the policy", () => expect(here.wrong).toEqual([]));
