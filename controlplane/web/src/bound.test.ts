// A member who is bound to one of two sites: the other one does not exist for them, nor what is about the whole organization.
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { type Client, connect } from "./client.js";
import { Role } from "./gen/chom/organization/v1/organization_pb.js";
import { State } from "./gen/chom/site/v1/site_pb.js";
import { type Swarm, startSwarm } from "./swarm.js";
import { password, signUp, walk } from "./walk.js";

const here = walk();
const { press, title, says, go, sound, wrong } = here;

const vera = "vera@example.com";
let api: Client; // the operator's
let swarm: Swarm | undefined;
let organization = "";
let invitation = "";
const site: Record<"blog" | "shop", { id: string; task: string }> = { blog: { id: "", task: "" }, shop: { id: "", task: "" } };

beforeAll(async () => {
	const { token } = await connect(here.chomd).accounts.createFirstOperator({
		setupSecret: here.chomd.setupSecret,
		email: "operator@example.com",
		password,
	});
	api = connect({ baseUrl: here.chomd.baseUrl, token });
	const { server, joinToken } = await api.servers.createServer({ name: "web-1" });
	swarm = await startSwarm(here.chomd.agentAddress, [joinToken?.token ?? ""], "50ms");
	const soon = { timeout: 60_000, interval: 200 };
	await vi.waitUntil(async () => (await api.servers.getServer({ serverId: server?.id ?? "" })).server?.facts?.prepared, soon);
	organization = (await api.organizations.createOrganization({ name: "acme", ownerEmail: "olga@example.com" })).organization?.id ?? "";
	for (const name of ["blog", "shop"] as const) {
		const made = await api.sites.createSite({ organizationId: organization, name, type: "static", domains: [`${name}.example.com`] });
		site[name] = { id: made.site?.id ?? "", task: made.task?.id ?? "" };
		await vi.waitUntil(async () => (await api.sites.getSite({ organizationId: organization, siteId: site[name].id })).site?.state === State.ACTIVE, soon);
	}
	const offer = { organizationId: organization, email: vera, role: Role.MEMBER, siteIds: [site.blog.id] };
	invitation = (await api.organizations.createInvitation(offer)).link;
}, 120_000);
afterAll(() => swarm?.stop());

const places = async () => (await here.page.getByRole("navigation").getByRole("link").allInnerTexts()).map((name) => name.trim());
const names = () => here.page.locator("main").getByRole("button").allInnerTexts();

test("they see their site alone, and are offered what they may do there", async () => {
	await here.page.goto(invitation);
	await here.follow("Sign up");
	await signUp(here, here, vera);
	await here.page.goto(invitation);
	await title("Join acme?");
	await press("Join");
	await title("acme");
	await here.page.getByText("blog waits for its names").or(here.page.getByText("All that was measured is well")).first().waitFor();
	expect(await here.page.locator("main").innerText()).not.toContain("shop");
	expect(await places()).toEqual(["Overview", "Sites", "Tasks", "Settings", "Account"]);
	await sound("bound-overview");
	await here.follow("Sites");
	await says("1 of 1");
	expect(await here.page.getByRole("link", { name: "Create a site" }).count()).toBe(0);
	await sound("bound-sites");
	await here.follow("blog");
	await title("blog");
	await here.page.getByRole("button", { name: "Suspend" }).waitFor();
	expect(await here.page.getByRole("tab").allInnerTexts()).toEqual(["State", "Graphs", "Names and certificates", "Backups", "Logs", "Tasks", "Settings"]);
	await sound("bound-site");
});

test("they work on it", async () => {
	await here.page.getByRole("tab", { name: "Settings" }).click();
	await here.page.getByRole("combobox", { name: "Tags" }).fill("news");
	await here.page.keyboard.press("Enter");
	await here.page.locator("form", { hasText: "Tags" }).getByRole("button", { name: "Save" }).click();
	const tags = async () => (await api.sites.getSite({ organizationId: organization, siteId: site.blog.id })).site?.tags;
	await expect.poll(tags, { timeout: 20_000 }).toEqual(["news"]);
	expect(await names()).not.toContain("Delete the site"); // an admin's
	expect(await here.page.getByRole("alert").count()).toBe(0); // nothing was asked that they may not know
	await sound("bound-site-settings");
	await here.page.getByRole("tab", { name: "Names and certificates" }).click();
	await says("blog.example.com");
	expect(await names()).not.toContain("Show that it is yours");
});

test("what is about the other site, or about all, is not there", async () => {
	await go(`/o/${organization}/tasks`);
	await here.page.getByRole("row", { name: /blog/ }).first().waitFor();
	expect(await here.page.getByRole("row", { name: /shop/ }).count()).toBe(0);
	for (const [path, words] of [
		[`sites/${site.shop.id}`, "Site not found."],
		[`sites/${site.shop.id}?tab=logs`, "Site not found."],
		[`tasks/${site.shop.task}`, "Task not found."],
		["team", "This is about the whole organization; you are bound to some of its sites."],
	] as const) {
		await go(`/o/${organization}/${path}`);
		await says(words);
		expect(await here.page.locator("main").innerText()).not.toContain("shop");
	}
	await here.page.getByRole("button", { name: "Leave" }).waitFor();
	await sound("bound-team");
	await go(`/o/${organization}/sites/${site.shop.id}`);
	await says("Site not found.");
	await sound("bound-other-site");
});

test("a viewer who is bound only looks", async () => {
	const { members } = await api.organizations.listMembers({ organizationId: organization });
	const accountId = members.find(({ email }) => email === vera)?.accountId ?? "";
	const change = (role: Role, siteIds: string[]) =>
		api.organizations.updateMember({
			organizationId: organization,
			accountId,
			role,
			allSites: siteIds.length === 0,
			siteIds,
			updateMask: { paths: ["role", "all_sites", "site_ids"] },
		});
	await go(`/o/${organization}/sites/${site.blog.id}`);
	await here.page.getByRole("button", { name: "Suspend" }).waitFor();
	await change(Role.VIEWER, [site.blog.id]);
	await here.page.getByRole("button", { name: "Suspend" }).waitFor({ state: "detached" }); // by itself
	expect(await here.page.getByRole("tab").allInnerTexts()).toEqual(["State", "Graphs", "Names and certificates", "Backups", "Tasks"]);
	// And who reaches all again is offered all of it.
	await change(Role.ADMIN, []);
	await here.page.getByRole("link", { name: "Team" }).waitFor();
	await here.page.getByRole("link", { name: "Audit log" }).waitFor();
	await here.follow("Sites");
	await says("2 of 2");
	await here.page.getByRole("link", { name: "Create a site" }).waitFor();
});

test("no script failed, and nothing was refused by the policy", () => expect(wrong).toEqual([]));
