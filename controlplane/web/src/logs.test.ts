// What a site logs, as people look at it: a real control plane, simulated agents, and Debian's Chromium.
import { afterAll, expect, test } from "vitest";
import { type Swarm, startSwarm } from "./swarm.js";
import { password, walk } from "./walk.js";

const here = walk();
const { fill, press, follow, title, says, go, sound, wrong } = here;
let swarm: Swarm | undefined;
afterAll(() => swarm?.stop());

const log = () => here.page.getByRole("log", { name: "What the site logs" });
const lines = () => log().locator("[data-source]");
const newest = async () => Number(/visit=(\d+)/.exec(await lines().filter({ hasText: "visit=" }).last().innerText())?.[1]);

let server = "";

test("somebody has a site", async () => {
	await go(`/first-operator#${here.chomd.setupSecret}`);
	await fill("E-mail address", "operator@example.com");
	await fill("New password", password);
	await press("Begin");
	await fill("Name", "acme");
	await press("Create organization");
	await title("acme");
	await go("/servers/new");
	await fill("Name", "web-1");
	await press("Get the line to paste");
	const line = await here.page.locator("code", { hasText: "chom1." }).innerText();
	server = /chom1\.[\w.-]+/.exec(line)?.[0] ?? "";
	swarm = await startSwarm(here.chomd.agentAddress, [server], "50ms");
	await here.page.locator("[data-active]", { hasText: "Ready for sites" }).waitFor();
	await go("/");
	await follow("Sites");
	await follow("Create a site");
	await fill("Name", "blog");
	await fill("Domain", "blog.example.com");
	await press("Create the site");
	await title("blog");
	await says("Active");
});

test("lines are there at once, and each new one within a second", async () => {
	await here.page.getByRole("tab", { name: "Logs" }).click();
	await lines().first().waitFor({ timeout: 2_000 });
	for (const word of ["access", "error", "PHP"]) expect(await lines().filter({ hasText: word }).count()).toBeGreaterThan(0);
	const now = await newest();
	// Somebody visits every 300 ms: three more within a second, and one on the way.
	await lines()
		.filter({ hasText: `visit=${now + 3} ` })
		.first()
		.waitFor({ timeout: 1_900 });
	await says("Live");
});

test("what visitors write is text", async () => {
	await lines().filter({ hasText: "<img src=x onerror=alert(1)>" }).first().waitFor();
	expect(await log().locator("img, script").count()).toBe(0);
	await sound("logs");
});

test("it stays at its end until somebody scrolls up", async () => {
	const fromEnd = () => log().evaluate(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight);
	await expect.poll(fromEnd).toBeLessThan(8);
	await log().evaluate((box) => box.scrollTo(0, 0));
	await here.page.getByRole("button", { name: "To the newest" }).waitFor();
	const now = await newest();
	await expect.poll(newest, { timeout: 3_000 }).toBeGreaterThan(now + 2);
	expect(await log().evaluate(({ scrollTop }) => scrollTop)).toBe(0);
	await press("To the newest");
	await expect.poll(fromEnd).toBeLessThan(8);
});

test("a pause holds it, and says what came meanwhile", async () => {
	await press("Pause");
	const held = await newest();
	await says(/Paused\. \d+ new lines? since\./);
	expect(await newest()).toBe(held);
	await press("Go on");
	await expect.poll(newest).toBeGreaterThan(held + 1);
});

test("logs and words are chosen", async () => {
	await here.page.locator("label", { hasText: "access" }).click();
	await expect.poll(() => log().locator("[data-source=access]").count()).toBe(0);
	expect(await lines().count()).toBeGreaterThan(0);
	await here.page.locator("label", { hasText: "access" }).click();
	await fill("Only lines with", "googlebot");
	await expect.poll(async () => (await lines().allInnerTexts()).every((text) => text.includes("Googlebot"))).toBe(true);
	await fill("Only lines with", "nobody writes this");
	await says("No line has that");
	await sound("logs-no-match");
	await fill("Only lines with", "");
});

test("a server that goes away shows", async () => {
	const before = await newest();
	await swarm?.stop();
	swarm = undefined;
	await says("The site's server does not answer");
	expect(await newest()).toBeGreaterThanOrEqual(before); // what was there stays
	await sound("logs-away");
});

test("it speaks German, too", async () => {
	const german = await here.context.browser()?.newContext({ locale: "de-DE", storageState: await here.context.storageState() });
	if (!german) throw new Error("no browser");
	const page = await german.newPage();
	await page.goto(here.page.url());
	await page.getByRole("tab", { name: "Protokolle" }).waitFor();
	await page.getByText("Der Server der Website antwortet nicht").first().waitFor();
	await german.close();
});

test("nothing went wrong on the way", () => {
	expect(wrong).toEqual([]);
});
