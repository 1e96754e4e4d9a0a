// Webhooks at the dashboard, with a receiver on this machine that the control plane calls.
import { execFileSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { createServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { freePort, startChomd } from "./chomd.js";
import { connect } from "./client.js";
import { GetWebhookResponseSchema, ListDeliveriesResponseSchema } from "./gen/chom/webhook/v1/webhook_service_pb.js";
import { mailedLink, type Person, signUp, through, walk } from "./walk.js";
import { events } from "./webhook/events.js";

/** A receiver that answers as a test wants, and keeps what it was told. */
const receiver = { port: 0, status: 200, calls: [] as { headers: IncomingMessage["headers"]; body: string }[] };
const folder = mkdtempSync(join(tmpdir(), "chom-receiver-"));
const [key, certificate] = [join(folder, "key.pem"), join(folder, "certificate.pem")];
const made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=hooks.example.com"];
execFileSync("openssl", [...made, "-addext", "subjectAltName=DNS:hooks.example.com", "-keyout", key, "-out", certificate], { stdio: "ignore" });
const listener = createServer({ key: readFileSync(key), cert: readFileSync(certificate) }, async (request, answer) => {
	let body = "";
	for await (const part of request) body += part;
	receiver.calls.push({ headers: request.headers, body });
	answer.writeHead(receiver.status).end();
});

const here = walk({
	begin: () => startChomd({ flags: ["--outbound-allow", "127.0.0.1/32"], names: { "hooks.example.com": "127.0.0.1" }, roots: certificate }),
});
const { fill, press, follow, title, says, go, sound, wrong } = here;

const hostile = `"><img src=x onerror=alert(1)>{{7*7}}<script>alert(2)</script>`;
let url = "";
let organization = "";
let guest: Person;

beforeAll(async () => {
	receiver.port = await freePort();
	await new Promise<void>((done) => listener.listen(receiver.port, "127.0.0.1", done));
	url = `https://hooks.example.com:${receiver.port}/chom`;
});
afterAll(() => {
	listener.close();
	rmSync(folder, { recursive: true });
});

const item = (at: Person, text: RegExp | string) => at.page.getByRole("listitem").filter({ hasText: text });
const dialog = () => here.page.getByRole("dialog");
const fact = (text: RegExp | string) => here.page.getByRole("definition").filter({ hasText: text });

/** The signatures that a call should have, one for each secret. */
const signed = ({ headers, body }: (typeof receiver.calls)[number], secrets: string[]) => {
	const [time = "", ...found] = String(headers["chom-signature"]).split(",");
	expect(Math.abs(Date.now() / 1000 - Number(time.slice(2)))).toBeLessThan(60);
	return [
		found,
		secrets.map(
			(secret) =>
				`v1=${createHmac("sha256", secret)
					.update(`${time.slice(2)}.${body}`)
					.digest("hex")}`,
		),
	] as const;
};

let secret = "";
let page = "";

test("a page without a webhook says what one is for", async () => {
	await go("/sign-up");
	await signUp(here, here, "olga@example.com");
	await fill("Name", "acme");
	await press("Create organization");
	await title("acme");
	organization = here.page.url().split("/").at(-1) ?? "";
	await follow("Webhooks");
	await title("Webhooks");
	await says("No webhook yet");
	await sound("webhooks-empty");
});

test("a webhook is added, and its secret is shown once", async () => {
	await press("Add a webhook");
	await fill("URL", "http://hooks.example.com/chom");
	await says("https://NAME/…, with a domain name that leads to a public address.");
	await fill("URL", url);
	await fill("Description", hostile);
	await here.page.getByRole("radio", { name: "Only some" }).check();
	expect(await dialog().getByRole("button", { name: "Add a webhook" }).isDisabled()).toBe(true); // of none it is told nothing
	const which = here.page.getByRole("combobox", { name: "Which events" });
	for (const event of ["organization.updated", "backup.failed"]) {
		await which.fill(event);
		await here.page.getByRole("option", { name: event }).click();
	}
	await here.page.keyboard.press("Escape");
	await sound("webhook-create");
	await dialog().getByRole("button", { name: "Add a webhook" }).click();
	await through(here, here.page.getByText("The secret is shown this once"));
	secret = await here.page.locator("code", { hasText: /^chomhook_/ }).innerText();
	await sound("webhook-secret");
	await press("I have kept it");
	await item(here, /Is called · 2 kinds of events/).waitFor();
	expect(await here.page.content()).not.toContain(secret);
	await says(hostile);
	expect(await here.page.locator("main img, main script").count()).toBe(0);
	await sound("webhooks");
	await follow("hooks.example.com");
	await title("hooks.example.com");
	page = new URL(here.page.url()).pathname;
	await says("It was told nothing in the last 30 days.");
	await sound("webhook");
});

test("a test arrives, signed, and the page tells how it went", async () => {
	await press("Send a test");
	await dialog().getByText("Taken").waitFor();
	await dialog()
		.getByRole("row", { name: /20\d\d.* 200 –$/ })
		.waitFor();
	await dialog().getByText('"type": "webhook.test"').waitFor();
	await sound("webhook-delivery");
	const call = receiver.calls.at(-1);
	expect(JSON.parse(call?.body ?? "")).toMatchObject({ type: "webhook.test", organization_id: organization });
	const [found, wanted] = signed(call as NonNullable<typeof call>, [secret]);
	expect(found).toEqual(wanted);
	await here.page.keyboard.press("Escape");
});

/** Something happens that the webhook wants to know. */
const happen = async (name: string) => {
	await go(`/o/${organization}/settings`);
	await fill("Name", name);
	await press("Save");
	await fact(name).first().waitFor();
	await go(page);
};

test("a receiver that fails shows, and what waits is sent by hand", async () => {
	receiver.status = 500;
	await happen("acme-shops");
	await item(here, /^organization\.updated.*Waits for its next try.*It answered 500\./).waitFor();
	await fact(/^Fails since now/).waitFor();
	await sound("webhook-failing");
	await here.page.getByRole("button", { name: "Calls: organization.updated" }).click();
	await dialog()
		.getByRole("row", { name: /500 It answered 500\./ })
		.first()
		.waitFor();
	await dialog()
		.getByText(/^Next try/)
		.waitFor();
	await sound("webhook-delivery-failed");
	await here.page.keyboard.press("Escape");
	await follow("Webhooks");
	await item(here, /Fails since now/).waitFor();
	await go(page);
	receiver.status = 204;
	await press("Send it now: organization.updated");
	await item(here, /^organization\.updated.*Taken/).waitFor();
	await fact("Is called").waitFor();
	const ids = receiver.calls.filter(({ body }) => body.includes("organization.updated")).map(({ headers }) => headers["chom-event-id"]);
	expect(ids.length).toBeGreaterThan(1);
	expect(new Set(ids).size).toBe(1); // the same event
	await press("Send it again: organization.updated");
	await expect.poll(() => receiver.calls.filter(({ body }) => body.includes("organization.updated")).length).toBe(ids.length + 1);
	await here.page.getByText("Given up", { exact: true }).first().click();
	await says("None is so.");
});

test("a new secret signs beside the former one for a day", async () => {
	await press("New secret");
	await sound("webhook-rotate");
	await press("Make a new secret");
	await through(here, here.page.getByText("The secret is shown this once"));
	const fresh = await here.page.locator("code", { hasText: /^chomhook_/ }).innerText();
	await press("I have kept it");
	await says("Signed with the former secret too, until");
	await press("Send a test");
	await dialog().getByText("Taken").waitFor();
	const call = receiver.calls.at(-1);
	const [found, wanted] = signed(call as NonNullable<typeof call>, [fresh, secret]);
	expect(found.sort()).toEqual(wanted.sort());
	await here.page.keyboard.press("Escape");
});

test("calls stop and go on, and what is called is changed", async () => {
	await press("Stop the calls");
	await sound("webhook-stop");
	await dialog().getByRole("button", { name: "Stop the calls" }).click();
	await fact("Stopped").waitFor();
	const before = receiver.calls.length;
	await happen("acme-bakery");
	await item(here, /^organization\.updated.*Waits/).waitFor();
	expect(receiver.calls.length).toBe(before);
	await press("Resume the calls");
	await fact("Is called").waitFor();
	await item(here, /^organization\.updated.*Waits/).waitFor({ state: "detached" });
	expect(receiver.calls.at(-1)?.body).toContain("acme-bakery");
	await press("Change");
	expect(await dialog().getByRole("button", { name: "Save" }).isDisabled()).toBe(true); // nothing is changed yet
	await here.page.getByRole("radio", { name: "All events" }).check();
	await fill("Description", "inventory");
	await sound("webhook-change");
	await press("Save");
	await fact("inventory").waitFor();
	await fact("All events").waitFor();
});

test("where a mail about it leads", async () => {
	await go(page.replace("/o/", "/organizations/"));
	await title("hooks.example.com");
	expect(new URL(here.page.url()).pathname).toBe(page);
	await go(`/o/${organization}/webhooks/0190b1c2-0000-7000-8000-000000000000`);
	await says("Webhook not found.");
	await sound("webhook-none");
});

test("what strangers wrote is text, and one that failed too often says what to do", async () => {
	// A problem holds no markup, and it takes an hour of failures: here the control plane is made to say so.
	const [id, time] = [page.split("/").at(-1) ?? "", timestampNow()];
	const webhook = { id, organizationId: organization, url, description: hostile, problem: hostile, enabled: false, createTime: time };
	const deliveries = [{ id: "d", webhookId: id, type: hostile, problem: hostile, state: 1, tries: 20, createTime: time, nextTryTime: time }];
	await here.page.route("**/chom.*/GetWebhook", (route) =>
		route.fulfill({ contentType: "application/proto", body: Buffer.from(toBinary(GetWebhookResponseSchema, create(GetWebhookResponseSchema, { webhook }))) }),
	);
	await here.page.route("**/chom.*/ListDeliveries", (route) =>
		route.fulfill({
			contentType: "application/proto",
			body: Buffer.from(toBinary(ListDeliveriesResponseSchema, create(ListDeliveriesResponseSchema, { deliveries }))),
		}),
	);
	await go(page);
	await says("It failed too often, and is no longer called");
	await item(here, hostile).waitFor();
	expect((await here.page.locator("main").innerText()).split(hostile).length - 1).toBe(4);
	expect(await here.page.locator("main img, main script").count()).toBe(0);
	await sound("webhook-disabled");
	await here.page.unrouteAll();
});

test("a member who looks after none of it is told so", async () => {
	guest = await here.another();
	await go(`/o/${organization}/team`);
	await press("Invite somebody");
	await fill("E-mail address", "vera@example.com");
	await here.page.getByRole("radio", { name: "member" }).check();
	await press("Send the invitation");
	await through(here, dialog().locator("code", { hasText: /\/invitation#/ }));
	await guest.page.goto(await mailedLink(here, "vera@example.com", "invitation"));
	await guest.follow("Sign up");
	await signUp(here, guest, "vera@example.com");
	await guest.page.goto(await mailedLink(here, "vera@example.com", "invitation"));
	await guest.press("Join");
	await guest.title("acme-bakery");
	expect(await guest.page.getByRole("link", { name: "Webhooks" }).count()).toBe(0);
	await guest.go(page);
	await guest.says("This needs the role admin in the organization; yours is member.");
	expect(await guest.page.locator("main").getByRole("button").allInnerTexts()).toEqual(["Try again"]);
});

test("it is removed when its name is typed", async () => {
	await go(page);
	await press("Remove the webhook");
	await dialog().getByLabel("Type hooks.example.com to go on").fill("hooks.example");
	expect(await dialog().getByRole("button", { name: "Remove the webhook" }).isDisabled()).toBe(true);
	await dialog().getByLabel("Type hooks.example.com to go on").fill("hooks.example.com");
	await sound("webhook-delete");
	await dialog().getByRole("button", { name: "Remove the webhook" }).click();
	await title("Webhooks");
	await says("No webhook yet");
});

test("it speaks German too", async () => {
	await here.page.evaluate(() => localStorage.setItem("chom-language", "de"));
	await go(`/o/${organization}/webhooks`);
	await says("Noch kein Webhook");
	await press("Webhook hinzufügen");
	await fill("URL", url);
	await dialog().getByRole("button", { name: "Webhook hinzufügen" }).click();
	await here.page.getByText("Das Geheimnis wird nur dieses eine Mal gezeigt").waitFor();
	await press("Ich habe es aufbewahrt");
	await follow("hooks.example.com");
	await press("Test senden");
	await dialog().getByText("Angenommen").waitFor();
	await here.page.keyboard.press("Escape");
	await sound("german-webhook");
});

test("the events to choose from are those that there are", async () => {
	const { token } = await connect(here.chomd).accounts.createFirstOperator({
		setupSecret: here.chomd.setupSecret,
		email: "operator@example.com",
		password: "seven blue kettles whistle",
	});
	const { webhooks } = connect({ baseUrl: here.chomd.baseUrl, token });
	const refused: Error = await webhooks.createWebhook({ organizationId: organization, url, events: ["no.such"] }).then(
		() => expect.unreachable(),
		(error) => error,
	);
	expect(/must be of (.*)/.exec(refused.message)?.[1]?.split(", ").sort()).toEqual([...events].sort());
});

test("no script failed, and nothing was refused by the policy", () => expect(wrong).toEqual([]));
