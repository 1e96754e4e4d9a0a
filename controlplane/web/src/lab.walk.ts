// The dashboard on a real host, as somebody walks it who begins with CHOM. packaging/e2e/dashboard starts it: LAB is where it does
// what a person does beside the browser.
import type { Locator, Page } from "playwright-core";
import { beforeAll, expect, test } from "vitest";
import { newestMail } from "./chomd.js";
import { password, through, walk } from "./walk.js";

interface Lab {
	baseUrl: string;
	setupSecret: string;
	mails: string;
	/** Of the host. */
	address: string;
	/** A browser with this home trusts the CA. */
	home: string;
}

const lab = (await (await fetch(process.env.LAB ?? "")).json()) as Lab;
const domain = "blog.walk.example";
const hostile = `"><img src=x onerror=alert(1)>{{7*7}}<script>alert(2)</script>`;

/** Has it done beside the browser. */
async function beside(what: "paste" | "dns" | "counted", body: string) {
	const answer = await fetch(`${process.env.LAB}/${what}`, { method: "POST", body });
	if (!answer.ok) throw new Error(await answer.text());
}

const here = walk({
	begin: async () => ({
		baseUrl: lab.baseUrl,
		agentAddress: "",
		setupSecret: lab.setupSecret,
		mail: (wanted) => newestMail(lab.mails, wanted),
		stop: async () => undefined,
	}),
	flags: [`--host-resolver-rules=MAP *.walk.example ${lab.address}`],
	home: lab.home,
});
const { fill, press, title, says, go, sound, wrong } = here;

let clicks = 0;
let begun = 0;
async function click(target: Locator) {
	await target.click();
	clicks++;
}
const button = (name: string) => here.page.getByRole("button", { name, exact: true }).first();
const link = (name: string | RegExp) => here.page.getByRole("link", { name, exact: typeof name === "string" }).first();

/** The page that a link opens beside this one. */
async function opened(target: Locator): Promise<Page> {
	const [page] = await Promise.all([here.context.waitForEvent("page"), click(target)]);
	await page.waitForLoadState("domcontentloaded");
	return page;
}

beforeAll(() => here.page.setDefaultTimeout(60_000)); // real hosts take their time

test("the first operator begins", async () => {
	await go(`/first-operator#${lab.setupSecret}`);
	await fill("E-mail address", "operator@walk.example");
	await fill("New password", password);
	await press("Begin");
	await title("Make your first organization");
});

test("one pasted line adds a server, and the page turns green by itself", async () => {
	clicks = 0;
	begun = performance.now();
	await fill("Name", "acme");
	await click(button("Create organization"));
	await title("acme");
	await click(link("Add a server"));
	await fill("Name", "vps1");
	await click(button("Get the line to paste"));
	await says("Waiting for the server");
	await click(button("Copy: the line to paste"));
	await button("Copied: the line to paste").waitFor();
	const pasted = beside("paste", await here.page.locator("code", { hasText: "chom1." }).innerText());
	await says("The server has enrolled");
	await pasted;
	await here.page.locator("[data-active]", { hasText: "Ready for sites" }).waitFor();
	await sound("lab-server-ready");
});

test("three fields make a WordPress, whose steps show as they happen", async () => {
	await click(link("Create a site"));
	await title("Create a site");
	await fill("Name", "blog");
	await fill("Domain", domain);
	await click(button("Create the site"));
	await title("blog");
	await says("Being created");
	await here.page.locator("ol li", { hasText: "database" }).waitFor();
	await sound("lab-site-creating");
	await here.page.getByText("Active", { exact: true }).first().waitFor();
});

test("its name has a certificate as soon as the records are set that the page says", async () => {
	const live = link(`https://${domain}/`);
	const set = new Set<string>();
	await says("Set these records in your DNS:");
	await sound("lab-site-records");
	while (!(await live.isVisible())) {
		// Read at one moment: the page goes on meanwhile.
		const records = await here.page
			.getByRole("row", { name: /^Add / })
			.evaluateAll((rows) => rows.map((row) => [...row.querySelectorAll("td:nth-child(2), code")].map(({ textContent }) => textContent)));
		for (const [type, name, value] of records) {
			const record = JSON.stringify({ name, type, value });
			if (set.has(record)) continue;
			set.add(record);
			await beside("dns", record);
		}
		await here.page.waitForTimeout(100);
	}
	expect([...set].map((record) => JSON.parse(record).type)).toEqual(["TXT", "A"]);
	const home = await opened(live);
	expect(home.url()).toBe(`https://${domain}/`);
	expect(await home.title()).toContain("blog");
	await beside("counted", JSON.stringify({ clicks, seconds: (performance.now() - begun) / 1000 }));
	await home.close();
});

test("that took no more than eight clicks and one pasted line", () => {
	expect(clicks).toBeGreaterThan(0);
	expect(clicks).toBeLessThanOrEqual(8);
});

test("a link that works once opens its administration", async () => {
	await press("Log in as administrator");
	const admin = await opened(link("Open the administration"));
	await admin.waitForURL(`https://${domain}/wp-admin/`);
	await admin.getByRole("heading", { name: "Dashboard", exact: true }).waitFor();
	await admin.close();
});

/** What a visitor gets. */
async function visit(path: string) {
	const visitor = await (await here.another()).context.newPage();
	const answer = await visitor.goto(`https://${domain}${path}`);
	const text = await visitor.locator("body").innerText();
	await visitor.context().close();
	return { status: answer?.status(), text };
}

const post = "/?p=1"; // the one that WordPress comes with

test("a backup brings back what was deleted", async () => {
	await here.page.getByRole("tab", { name: "Backups" }).click();
	await says("No backup yet");
	await press("Back up now");
	await here.page.getByRole("cell", { name: "Ready", exact: true }).waitFor();
	await sound("lab-backup");

	const admin = await here.context.newPage();
	await admin.goto(`https://${domain}/wp-admin/edit.php`);
	await admin
		.getByRole("link", { name: /Hello world!/ })
		.first()
		.hover();
	await admin.getByRole("link", { name: /Trash$/ }).click();
	await admin.getByText("1 post moved to the Trash.").waitFor();
	await admin.close();
	expect(await visit(post)).toMatchObject({ status: 404 });

	await press("Restore…");
	await says("The site becomes what it was");
	await sound("lab-restore-dialog");
	await press("Restore now");
	await here.page.locator("ol li", { hasText: "switch-files" }).waitFor();
	await button("Undo the restore").waitFor();
	await sound("lab-restored");
	const back = await visit(post);
	expect(back.status).toBe(200);
	expect(back.text).toContain("Hello world!");
});

test("who is invited by mail joins, and sees what a viewer may", async () => {
	const lena = await here.another();
	await lena.go("/sign-up");
	await lena.fill("E-mail address", "lena@walk.example");
	await lena.fill("New password", password);
	await lena.press("Sign up");
	await lena.title("Look into your mailbox");
	await lena.page.goto(/http\S*\/verify-email#chomverify_\w+/.exec(await here.chomd.mail(/chomverify_/))?.[0] ?? "");
	await lena.fill("Password", password);
	await lena.press("Go on");
	await lena.title("Make your first organization");

	await here.follow("Team");
	await press("Invite somebody");
	const dialog = here.page.getByRole("dialog", { name: "Invite somebody" });
	await dialog.getByLabel("E-mail address").fill("lena@walk.example");
	await dialog.getByRole("radio", { name: "viewer" }).check();
	await dialog.getByRole("button", { name: "Send the invitation" }).click();
	await through(here, dialog.locator("code", { hasText: "/invitation#" }));
	await dialog.getByRole("button", { name: "Close" }).last().click();
	await lena.page.goto(/http\S*\/invitation#chom\w+/.exec(await here.chomd.mail(/\/invitation#/))?.[0] ?? "");
	await lena.title("Join acme?");
	await lena.sound("lab-invitation");
	await lena.press("Join");
	await lena.title("acme");
	expect(await lena.page.getByRole("link", { name: "Servers" }).count()).toBe(0);
	await lena.follow("Sites");
	await lena.follow("blog");
	await lena.title("blog");
	await lena.says("Active");
	expect(await lena.page.getByRole("tab", { name: "Logs" }).count()).toBe(0);
	await lena.page.getByRole("tab", { name: "Backups" }).click();
	await lena.page.getByRole("cell", { name: "Ready", exact: true }).first().waitFor();
	expect(await call(lena.page, "backup.v1.BackupService/CreateBackup", { siteId: /\/sites\/([^/?]+)/.exec(lena.page.url())?.[1] })).toBe(403);
	await lena.go("/servers");
	await lena.page.getByRole("alert").waitFor();
	await lena.page.context().close();
});

/** Calls as a page of the organization would, and gives how it was answered. */
async function call(page: Page, method: string, request: object): Promise<number> {
	const organizationId = /\/o\/([^/]+)/.exec(page.url())?.[1];
	return page.evaluate(
		async ([method, body]) => (await fetch(`/chom.${method}`, { method: "POST", headers: { "Content-Type": "application/json" }, body })).status,
		[method, JSON.stringify({ organizationId, ...request })] as const,
	);
}

test("what strangers write is text, wherever it shows", async () => {
	await here.follow("Sites");
	await here.follow("Create a site");
	await fill("Name", "shop");
	await here.page.getByText("Static files").click();
	await fill("Domain", "shop.walk.example");
	await press("More choices");
	await fill("Title", hostile);
	await press("Create the site");
	await title("shop");
	await says(hostile); // as its host measured it
	expect(await here.page.locator("main img").count()).toBe(0);
	await here.page.getByRole("tab", { name: "Tasks" }).click();
	await here.follow("Bringing the site to what is wanted");
	await says(/of 6 steps/);
});

test("the overview, the list and the server's page tell of all that", async () => {
	await here.follow("Overview");
	await says("shop waits for its names");
	await sound("lab-overview");
	await here.follow("Sites");
	await here.page.getByRole("row", { name: /^blog.*Active/ }).waitFor();
	await sound("lab-sites");
	await here.follow("Servers");
	await here.follow("vps1");
	await title("vps1");
	await here.page.getByRole("row", { name: /Preparing the server.*Done/ }).waitFor();
	await sound("lab-server");
});

test("no script failed, and nothing was refused by the policy", () => expect(wrong).toEqual([]));
