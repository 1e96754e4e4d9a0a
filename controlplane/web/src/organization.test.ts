// A team at the dashboard: an owner and whom she invites, each in a browser of their own.
import { readFile } from "node:fs/promises";
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { afterAll, beforeAll, expect, test } from "vitest";
import { connect } from "./client.js";
import { MailState } from "./gen/chom/mail/v1/mail_pb.js";
import { ListMailsResponseSchema } from "./gen/chom/mail/v1/mail_service_pb.js";
import { Role, State } from "./gen/chom/organization/v1/organization_pb.js";
import {
	ListInvitationsResponseSchema,
	ListMembersResponseSchema,
	ListOrganizationsResponseSchema,
} from "./gen/chom/organization/v1/organization_service_pb.js";
import { ListOrganizationTokensResponseSchema } from "./gen/chom/token/v1/token_service_pb.js";
import { type Swarm, startSwarm } from "./swarm.js";
import { mailedLink, type Person, password, signUp, through, walk } from "./walk.js";

const here = walk();
const { fill, press, follow, title, says, go, sound, wrong } = here;

const vera = "vera@example.com";
const operator = "operator@example.com";

let guest: Person;
let swarm: Swarm | undefined;
let root = ""; // the operator's token
let organization = "";

beforeAll(async () => {
	root = (await connect(here.chomd).accounts.createFirstOperator({ setupSecret: here.chomd.setupSecret, email: operator, password })).token;
	guest = await here.another();
});
afterAll(() => swarm?.stop());

const item = (at: Person, text: RegExp | string) => at.page.getByRole("listitem").filter({ hasText: text });

test("a new organization has its owner, and says how others come", async () => {
	await go("/sign-up");
	await signUp(here, here, "olga@example.com");
	await fill("Name", "acme");
	await press("Create organization");
	await title("acme");
	organization = here.page.url().split("/").at(-1) ?? "";
	await follow("Team");
	await title("Team");
	const own = item(here, /^olga@/);
	await own.getByText("owner").waitFor();
	await own.getByText("you", { exact: true }).waitFor();
	await says(/Whoever is invited gets a mail/);
	await sound("team-alone");
	await own.getByRole("button", { name: "Leave" }).click();
	const dialog = here.page.getByRole("dialog", { name: "Leave acme?" });
	await dialog.getByLabel("Type acme to go on").fill("acme");
	await dialog.getByRole("button", { name: "Leave" }).click();
	await dialog.getByText(/left without an owner who can sign in: make somebody else an owner first/).waitFor();
	await dialog.getByRole("button", { name: "Cancel" }).click();
});

test("the owner invites by mail, and an invitation can be withdrawn", async () => {
	for (const email of ["nobody@example.com", vera]) {
		await press("Invite somebody");
		const dialog = here.page.getByRole("dialog", { name: "Invite somebody" });
		await dialog.getByLabel("E-mail address").fill(email);
		await dialog.getByRole("radio", { name: "viewer" }).check();
		if (email === vera) await sound("invite");
		await dialog.getByRole("button", { name: "Send the invitation" }).click();
		await through(here, dialog.locator("code", { hasText: /\/invitation#chominv_\w{49}$/ }));
		await dialog.getByText(email).waitFor();
		if (email === vera) await sound("invited");
		await dialog.getByRole("button", { name: "Close" }).last().click();
	}
	await sound("team-invitations");
	await press("Withdraw the invitation of nobody@example.com");
	await here.page.getByRole("dialog").getByRole("button", { name: "Withdraw" }).click();
	await here.page
		.getByRole("listitem")
		.filter({ hasText: /^nobody@/ })
		.waitFor({ state: "detached" });
});

test("the invited signs up, accepts, and is in the team", async () => {
	await guest.page.goto(await mailedLink(here, vera, "invitation"));
	await guest.title("Sign in");
	await guest.says(`You are invited to acme. Sign in as ${vera}`);
	expect(guest.page.url()).not.toContain("chominv_");
	await guest.sound("invitation-stranger");
	await guest.follow("Sign up");
	await signUp(here, guest, vera);
	await guest.page.goto(await mailedLink(here, vera, "invitation"));
	await guest.title("Join acme?");
	await guest.says(`${vera} is invited as viewer.`);
	await guest.sound("invitation");
	await guest.press("Join");
	await guest.title("acme");
	await item(here, /vera@example.com/).waitFor(); // by itself
	await says("None. Whoever is invited");
});

test("a viewer is offered nothing that changes something", async () => {
	await guest.follow("Team");
	await guest.title("Team");
	await guest.page
		.getByRole("listitem")
		.filter({ hasText: /^olga@/ })
		.waitFor();
	await guest.page.getByRole("button", { name: "Leave" }).waitFor();
	expect(await guest.page.locator("main").getByRole("button").allInnerTexts()).toEqual(["Leave"]);
	await guest.sound("team-viewer");
	expect(await guest.page.getByRole("link", { name: /Tokens|Audit log/ }).count()).toBe(0);
	await guest.follow("Sites");
	await guest.says("No site yet");
	expect(await guest.page.getByRole("link", { name: "Create a site" }).count()).toBe(0);
	// Who types an address all the same is told why not.
	await guest.go(`/o/${organization}/audit`);
	await guest.says("This needs the role admin in the organization; yours is viewer.");
	await guest.says("If you need this, ask an owner or admin of the organization.");
	expect(await guest.page.getByRole("button", { name: "Export" }).count()).toBe(0);
	await guest.sound("refused");
	await guest.go("/operator/organizations");
	await guest.says("This is for those who run the platform");
	await guest.sound("refused-operator");
	await guest.go(`/o/${organization}/team`);
});

test("the owner changes what a member may do, within what the roles allow", async () => {
	await press(`Change the rights of ${vera}`);
	const dialog = here.page.getByRole("dialog");
	await dialog.getByRole("radio", { name: "viewer" }).waitFor();
	await sound("member-change");
	await dialog.getByRole("radio", { name: "admin" }).check();
	expect(await dialog.getByRole("radio", { name: "Only some sites" }).count()).toBe(0); // admins reach all
	await dialog.getByRole("button", { name: "Save" }).click();
	await dialog.waitFor({ state: "detached" });
	await here.page
		.getByRole("listitem")
		.filter({ hasText: /^vera@.*admin/ })
		.waitFor();
	await guest.page.getByRole("button", { name: "Invite somebody" }).waitFor();
	const owner = item(guest, /^olga@/);
	expect(await owner.getByRole("button").count()).toBe(0); // whom an admin does not change
	await guest.press("Invite somebody");
	await guest.page.getByRole("radio", { name: "admin" }).waitFor();
	expect(await guest.page.getByRole("radio", { name: "owner" }).count()).toBe(0);
	await guest.page.keyboard.press("Escape");
});

test("a token of the organization is shown once, works, is seen to be used, and is revoked", async () => {
	await follow("Tokens");
	await title("Tokens of the organization");
	await says("No token yet");
	await sound("tokens-empty");
	await press("Make a token");
	await fill("Name", "deploy shop");
	await here.page.getByRole("radio", { name: "Manage" }).check();
	await here.page.getByRole("radio", { name: "viewer" }).check();
	await sound("token-create");
	await here.page.getByRole("dialog").getByRole("button", { name: "Make a token" }).click();
	await through(here, here.page.getByText("It is shown this once"));
	const secret = await here.page.locator("code", { hasText: /^chomorg_/ }).innerText();
	await sound("token-secret");
	await press("I have kept it");
	expect(await here.page.content()).not.toContain(secret);
	await says(/never used/);
	const program = connect({ baseUrl: here.chomd.baseUrl, token: secret });
	const found = await program.organizations.getOrganization({ organizationId: organization });
	expect(found.organization?.name).toBe("acme");
	await expect(program.tokens.listOrganizationTokens({ organizationId: organization })).rejects.toThrow(/needs the role admin/);
	await says(/last used/);
	await sound("tokens");
	await press("Revoke deploy shop");
	await here.page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
	await says("No token yet");
	await expect(program.organizations.getOrganization({ organizationId: organization })).rejects.toThrow(/unauthenticated/);
});

test("somebody makes a token of their own, for one organization", async () => {
	await guest.go("/account");
	await guest.follow("Your tokens");
	await guest.title("Your tokens");
	await guest.sound("own-tokens-empty");
	await guest.press("Make a token");
	await guest.fill("Name", "laptop");
	await guest.page.getByRole("combobox", { name: "Organization" }).last().click();
	await guest.page.getByRole("option", { name: "acme" }).last().click();
	await guest.page.getByRole("radio", { name: "All sites" }).waitFor();
	await guest.sound("own-token-create");
	await guest.page.getByRole("dialog").getByRole("button", { name: "Make a token" }).click();
	await through(guest, guest.page.getByText("It is shown this once"));
	const secret = await guest.page.locator("code", { hasText: /^chompat_/ }).innerText();
	await guest.press("I have kept it");
	expect((await connect({ baseUrl: here.chomd.baseUrl, token: secret }).accounts.getCaller({})).email).toBe(vera);
	await item(guest, /^laptopRead · acme · All sites/).waitFor();
	await guest.sound("own-tokens");
	await guest.press("Revoke laptop");
	await guest.page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
	await guest.says("No token yet");
});

test("the audit log tells it all, filters, and goes along as a file", async () => {
	const action = here.page.getByRole("combobox", { name: "Action" });
	await follow("Audit log");
	await title("Audit log");
	await item(here, /^token\.revoke.*olga@example\.com/).waitFor();
	await item(here, /^member\.update/).waitFor();
	await item(here, /^access\.refuseRefused.*ListOrganizationTokens/).waitFor(); // what the token was not allowed
	await sound("audit");
	await here.page.getByRole("combobox", { name: "Who" }).click();
	await here.page.getByRole("option", { name: vera }).click();
	await item(here, /^token/)
		.first()
		.waitFor({ state: "detached" });
	await item(here, /^invitation\.accept/).waitFor();
	expect(new URL(here.page.url()).searchParams.get("actor")).toMatch(/^[0-9a-f-]{36}$/); // to be shared
	await press("Show all");
	await action.fill("invitation.");
	await item(here, /^member/)
		.first()
		.waitFor({ state: "detached" });
	expect(await here.page.getByRole("main").getByRole("listitem").count()).toBe(4); // two made, one withdrawn, one accepted
	await here.page.getByRole("button", { name: "Show only invitation.revoke" }).click();
	await item(here, /^invitation\.create/)
		.first()
		.waitFor({ state: "detached" });
	expect(await action.inputValue()).toBe("invitation.revoke");
	await action.fill("Invitation!");
	await says("Small letters, . and _, as in site.create.");
	await action.fill("member.");
	await item(here, /^member/)
		.first()
		.waitFor();
	await here.page.keyboard.press("Escape");
	await sound("audit-filtered");
	await press("Export");
	const [download] = await Promise.all([here.page.waitForEvent("download"), here.page.getByRole("menuitem", { name: /CSV/ }).click()]);
	expect(download.suggestedFilename()).toMatch(/^audit-acme-\d{4}-\d\d-\d\d\.csv$/);
	const [head, ...lines] = (await readFile(await download.path(), "utf8")).trim().split("\r\n");
	expect(head).toMatch(/action/);
	expect(lines).toHaveLength(1);
	expect(lines[0]).toContain("member.update");
	await press("Show all");
	await item(here, /^audit\.export/).waitFor(); // an export is itself recorded
	const hour = 3_600_000;
	await fill("Until", new Date(Date.now() - hour).toISOString().slice(0, 16));
	await says("Nothing happened");
});

test("everybody sees what was done with their own account", async () => {
	await guest.go("/account/events");
	await guest.says("session.open");
	await guest.sound("own-events");
});

test("the settings say what it uses; it is renamed, closed and reopened", async () => {
	await follow("Settings");
	await title("Settings of the organization");
	await says("0 bytes, without a limit");
	await says("To demand one, first add one to your account and sign in with it.");
	await sound("settings");
	await fill("Name", "acme-shops");
	await press("Save");
	await here.page
		.getByRole("definition")
		.filter({ hasText: /^acme-shops$/ })
		.waitFor();
	await press("Close the organization");
	const dialog = here.page.getByRole("dialog", { name: "Close acme-shops?" });
	await dialog.getByLabel("Type acme-shops to go on").fill("acme");
	expect(await dialog.getByRole("button", { name: "Close the organization" }).isDisabled()).toBe(true);
	await dialog.getByLabel("Type acme-shops to go on").fill("acme-shops");
	await sound("close-organization");
	await dialog.getByRole("button", { name: "Close the organization" }).click();
	await through(here, here.page.getByText("This organization is being closed"));
	await sound("settings-closing");
	await press("Reopen it");
	await here.page.getByText("This organization is being closed").waitFor({ state: "detached" });
	// Where the mail about it leads.
	await here.page.goto(/http\S*\/organizations\/[0-9a-f-]+/.exec(await here.chomd.mail(/^Subject: .*clos/im))?.[0] ?? "");
	await title("Settings of the organization");
	await guest.go(`/o/${organization}/settings`);
	await guest.says("acme-shops");
	expect(await guest.page.getByRole("button", { name: /Save|Close the organization/ }).count()).toBe(0); // an admin only looks
});

let ops: Person;

test("an operator sees all organizations, and sets a quota", async () => {
	ops = await here.another();
	await ops.go("/login");
	await ops.fill("E-mail address", operator);
	await ops.fill("Password", password);
	await ops.press("Sign in");
	await ops.follow("Organizations");
	await ops.title("Organizations");
	await item(ops, /^acme-shopsActiveolga@example\.com/).waitFor();
	await ops.press("Create organization");
	const dialog = ops.page.getByRole("dialog", { name: "Create organization" });
	await dialog.getByLabel("Name").fill("bakery");
	await dialog.getByLabel("E-mail address of the owner").fill("ben@example.com");
	await dialog.getByRole("button", { name: "Create organization" }).click();
	await item(ops, /^bakeryActiveben@example\.com/).waitFor();
	await ops.press("Quota of acme-shops");
	await ops.page.getByRole("radio", { name: "Its own" }).check();
	await ops.fill("Gigabytes", "5");
	await ops.sound("quota");
	await ops.press("Save");
	await item(ops, /^acme-shops.*0 bytes of 5 GB \(0 %\)/).waitFor();
	await ops.sound("organizations");
	await ops.fill("Name, owner or id", "ben@");
	await ops.says("1 of 2");
	await says("0 bytes of 5 GB (0 %)"); // at the owner's, by itself
});

test("an operator keeps new sites away from a server, and lets them come again", async () => {
	await ops.follow("Placement");
	await ops.says("No server yet");
	const { joinToken } = await connect({ baseUrl: here.chomd.baseUrl, token: root }).servers.createServer({ name: "web-1" });
	swarm = await startSwarm(here.chomd.agentAddress, [joinToken?.token ?? ""], "50ms");
	await item(ops, /^web-1.*Ready.*0 sites · for all organizations/).waitFor();
	await ops.sound("placement");
	await ops.press("Take no new sites: web-1");
	await ops.page.getByRole("dialog").getByRole("button", { name: "Take no new sites" }).click();
	await item(ops, /^web-1takes no new sites/).waitFor();
	await ops.press("Take new sites again: web-1");
	await item(ops, /^web-1.*Ready/).waitFor();
	await ops.follow("web-1");
	await ops.title("web-1");
});

test("an operator sees which mails went out", async () => {
	await ops.follow("Mail");
	await ops.title("Mail");
	await item(ops, /^vera@example\.cominvitationSent/).waitFor();
	await ops.press("Send me a test mail");
	await item(ops, /^operator@example\.comtestSent/).waitFor();
	await ops.sound("mails");
	await ops.page.getByText("Given up", { exact: true }).first().click();
	await ops.says("No mail");
	await ops.follow("Platform log");
	await ops.title("Audit log of the platform");
	await item(ops, /^mail\.test/).waitFor();
	await ops.sound("audit-platform");
});

const hostile = `"><img src=x onerror=alert(1)>{{7*7}}<script>alert(2)</script>javascript:alert(3)`;

test("an operator acts as a member, under a banner, and it is told", async () => {
	await ops.go(`/o/${organization}/team`);
	await ops.press(`Act as ${vera}`);
	const dialog = ops.page.getByRole("dialog");
	await dialog.getByLabel("Reason").fill("short");
	expect(await dialog.getByRole("button", { name: "Act as them" }).isDisabled()).toBe(true);
	await dialog.getByLabel("Reason").fill(hostile);
	await ops.sound("act-as");
	await dialog.getByRole("button", { name: "Act as them" }).click();
	await through(ops, ops.page.getByText(`You act as ${vera} in acme-shops`));
	await ops.title("acme-shops");
	expect(await ops.page.getByRole("link", { name: /Organizations|Servers|Account/ }).count()).toBe(0);
	expect(await ops.page.evaluate(() => JSON.stringify(localStorage) + JSON.stringify(sessionStorage))).not.toContain("chomimp_");
	await ops.follow("Team");
	await item(ops, /^vera@example\.comyouadmin/).waitFor();
	expect(await ops.page.getByRole("button", { name: /^Invite|^Leave|^Change|^Act/ }).count()).toBe(0); // what only she can do
	await ops.sound("acting");
	await ops.follow("Audit log");
	await ops.press("Export");
	await Promise.all([ops.page.waitForEvent("download"), ops.page.getByRole("menuitem", { name: /CSV/ }).click()]);
	await ops.press("End it");
	await ops.page.getByText(`You act as ${vera}`).waitFor({ state: "detached" });
	await ops.title("Team");
	await ops.page.getByRole("button", { name: `Act as ${vera}` }).waitFor();
	expect(await here.chomd.mail(/^Subject: Support looks at acme-shops/m)).toContain("olga@example.com");
	await follow("Audit log");
	await item(here, /^impersonation\.start/)
		.getByText(hostile)
		.waitFor();
	await item(here, /^impersonation\.end.*CHOM operator operator@example\.com/).waitFor(); // who is no member of hers
	await item(here, /^audit\.export.*vera@example\.com.*through the CHOM operator operator@example\.com, who acted as them/).waitFor();
	expect(await here.page.locator("main img, main script").count()).toBe(0);
	await sound("audit-hostile");
});

test("who leaves the page ends acting for somebody", async () => {
	await ops.press(`Act as ${vera}`);
	await ops.fill("Reason", "looks why a backup failed");
	await ops.press("Act as them");
	await through(ops, ops.page.getByText(`You act as ${vera} in acme-shops`));
	await ops.page.reload();
	await ops.page.getByRole("link", { name: "Organizations" }).waitFor();
	await expect.poll(() => item(here, /^impersonation\.end/).count(), { timeout: 30_000 }).toBe(2);
});

test("what strangers wrote is text", async () => {
	// Addresses and names hold no markup: here the control plane is made to say that they do.
	const time = timestampNow();
	const members = [{ accountId: "a", email: hostile, role: Role.MEMBER, createTime: time, allSites: true }];
	const invitations = [{ id: "i", email: hostile, role: Role.MEMBER, inviterEmail: hostile, createTime: time, expireTime: time, allSites: true }];
	const tokens = [{ id: "t", name: hostile, creatorEmail: hostile, lastUsedAddress: hostile, lastUsedTime: time, createTime: time, expireTime: time }];
	const mails = [{ id: "m", recipient: hostile, template: hostile, problem: hostile, state: MailState.DEAD, createTime: time, endTime: time }];
	const organizations = [{ id: organization, name: hostile, ownerEmail: hostile, state: State.ACTIVE, createTime: time }];
	await lie("ListMembers", ListMembersResponseSchema, { members });
	await lie("ListInvitations", ListInvitationsResponseSchema, { invitations });
	await lie("ListOrganizationTokens", ListOrganizationTokensResponseSchema, { tokens });
	await lie("ListMails", ListMailsResponseSchema, { mails });
	await lie("ListOrganizations", ListOrganizationsResponseSchema, { organizations });
	for (const [path, times] of [
		[`/o/${organization}/team`, 3],
		[`/o/${organization}/tokens`, 3],
		["/operator/mails", 3],
		["/operator/organizations", 2],
	] as const) {
		await ops.go(path);
		await item(ops, hostile).first().waitFor();
		expect((await ops.page.locator("main").innerText()).split(hostile).length - 1, path).toBe(times);
		expect(await ops.page.locator("main img, main script").count()).toBe(0);
	}
	await ops.go("/operator/mails");
	await ops.press(`Send it now: ${hostile}`);
	await ops.page.getByRole("alert").waitFor(); // there is no such mail, and that is said
	await ops.page.unrouteAll();
});

/** Answers a call in the control plane's place, at the operator's. */
const lie = <D extends DescMessage>(method: string, schema: D, answer: MessageInitShape<D>) =>
	ops.page.route(`**/chom.*/${method}`, (route) =>
		route.fulfill({ contentType: "application/proto", body: Buffer.from(toBinary(schema, create(schema, answer))) }),
	);

test("the organization is handed over, and the former owner is an admin", async () => {
	await follow("Team");
	await press("Hand the organization over…");
	const dialog = here.page.getByRole("dialog", { name: "Hand acme-shops over" });
	await dialog.getByRole("combobox", { name: "New owner" }).click();
	await here.page.getByRole("option", { name: vera }).click();
	await dialog.getByLabel("Type acme-shops to go on").fill("acme-shops");
	await sound("hand-over");
	await dialog.getByRole("button", { name: "Hand it over" }).click();
	await through(here, item(here, /^vera@example\.comowner/));
	await item(here, /^olga@example\.comyouadmin/).waitFor();
	await here.page.getByRole("button", { name: "Hand the organization over…" }).waitFor({ state: "detached" });
	await guest.go(`/o/${organization}/team`);
	await guest.press("Remove olga@example.com");
	await guest.page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
	await item(guest, /^olga@/).waitFor({ state: "detached" });
	await here.page.getByRole("alert").waitFor(); // she sees nothing of it any more, and is told so
	await go("/");
	await title("Make your first organization");
});

test("it speaks German too", async () => {
	for (const [path, heading] of [
		[`/o/${organization}/team`, "Team"],
		[`/o/${organization}/tokens`, "Tokens der Organisation"],
		[`/o/${organization}/audit`, "Protokoll"],
		[`/o/${organization}/settings`, "Einstellungen der Organisation"],
		["/operator/placement", "Verteilung"],
	] as const) {
		await ops.go(path);
		await ops.page.evaluate(() => localStorage.setItem("chom-language", "de"));
		await ops.go(path);
		await ops.title(heading);
		await ops.sound(`german-${heading.toLowerCase().replaceAll(" ", "-")}`);
	}
});

test("no script failed, and nothing was refused by the policy", () => expect(wrong).toEqual([]));
