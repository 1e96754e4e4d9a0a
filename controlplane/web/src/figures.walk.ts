// What the dashboard promises in numbers. packaging/bench starts it: FIGURES says where the control plane is, who is signed in there,
// and where to write what was measured. Nothing is judged here.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import lighthouse from "lighthouse";
import { type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, test } from "vitest";
import { freePort } from "./chomd.js";
import { keysToPaint, stepLags } from "./measure.js";

interface Place {
	baseUrl: string;
	email: string;
	password: string;
	organization: string;
	/** Of its thousand sites. */
	site: string;
	/** A real one. */
	server: string;
	/** A file for what was measured. */
	out: string;
}

const place = JSON.parse(process.env.FIGURES ?? "") as Place;
const home = `/o/${place.organization}`;
/** Times are in milliseconds, sizes in bytes. */
const figures = {
	login: [] as number[],
	overview: [] as number[],
	scripts: 0,
	keys: [] as number[],
	steps: [] as number[],
	lighthouse: {} as Record<string, { accessibility: number; bestPractices: number }>,
};

let folder = "";
let port = 0;
let context: BrowserContext;
let page: Page;

beforeAll(async () => {
	folder = await mkdtemp(join(tmpdir(), "chom-figures-"));
	port = await freePort();
	// One whose own context is the default: Lighthouse opens its pages there.
	context = await chromium.launchPersistentContext(folder, {
		executablePath: "/usr/bin/chromium",
		args: ["--no-sandbox", "--disable-dev-shm-usage", `--remote-debugging-port=${port}`],
		viewport: { width: 1280, height: 860 },
		locale: "en-GB",
	});
	page = await context.newPage();
	page.setDefaultTimeout(60_000);
});

afterAll(async () => {
	await context.close();
	await rm(folder, { recursive: true });
	await writeFile(place.out, JSON.stringify(figures));
});

const slowdown = 4;
const loads = 7;

/**
 * Loads a page with an empty cache on a processor that is slowed down, and gives how long it took from the address until what tells
 * that it is there was painted and the page was free to take a key.
 */
async function load(path: string, there: string): Promise<{ took: number; scripts: number }> {
	const fresh = await context.newPage();
	const devtools = await context.newCDPSession(fresh);
	await devtools.send("Network.enable");
	await devtools.send("Network.clearBrowserCache");
	await devtools.send("Emulation.setCPUThrottlingRate", { rate: slowdown });
	await fresh.addInitScript(`{
		const there = () => ${there};
		const observer = new MutationObserver(() => {
			if (!there()) return;
			observer.disconnect();
			requestAnimationFrame(() => setTimeout(() => (globalThis.took = performance.now())));
		});
		observer.observe(document, { subtree: true, childList: true, characterData: true });
	}`);
	await fresh.goto(place.baseUrl + path);
	await fresh.waitForFunction(() => "took" in globalThis, undefined, { polling: 200 });
	const measured = await fresh.evaluate(() => ({
		took: (globalThis as unknown as { took: number }).took,
		scripts: performance
			.getEntriesByType("resource")
			.filter(({ name }) => name.endsWith(".js"))
			.reduce((sum, entry) => sum + (entry as PerformanceResourceTiming).encodedBodySize, 0),
	}));
	if (path === "/login") await typed(fresh);
	await fresh.close();
	return measured;
}

/** The field takes a key where it stands. */
async function typed(fresh: Page) {
	await fresh.keyboard.press("a");
	if ((await fresh.locator("input[name=email]").inputValue()) !== "a") throw new Error("the field took no key");
}

test("the login page, from nothing until it takes a key", async () => {
	for (let n = 0; n < loads; n++) figures.login.push((await load("/login", "document.activeElement?.matches('input[name=email]')")).took);
});

test("somebody signs in", async () => {
	figures.lighthouse.login = await weigh("/login");
	await page.goto(`${place.baseUrl}/login`);
	await page.getByLabel("E-mail address").fill(place.email);
	await page.getByLabel("Password", { exact: true }).fill(place.password);
	await page.getByRole("button", { name: "Sign in", exact: true }).click();
	await page.waitForURL(`**${home}`);
});

test("the overview of a thousand sites, from nothing until its figures are there", async () => {
	for (let n = 0; n < loads; n++) {
		const { took, scripts } = await load(home, "document.querySelector('main')?.textContent.includes('1000')");
		figures.overview.push(took);
		figures.scripts = Math.max(figures.scripts, scripts);
	}
});

test("a thousand sites, from a key to its paint", async () => {
	await page.goto(`${place.baseUrl}${home}/sites`);
	await page.getByText("1000 of 1000").waitFor();
	await page.getByLabel("Name, domain or tag").focus();
	// Each of them changes how many there are.
	const keys = ["9", "7", "Backspace", "1", "Backspace", "Backspace"];
	figures.keys = await keysToPaint(page, Array.from({ length: 8 }, () => keys).flat());
});

test("a step on a host, from its beginning or end to the page", async () => {
	for (let n = 0; n < 10; n++) {
		await page.goto(`${place.baseUrl}/servers/${place.server}`);
		const lags = await stepLags(page);
		if (lags.length !== 6 || !lags.every(Number.isFinite)) throw new Error(`not every step was seen: ${lags.join(", ")}`);
		figures.steps.push(...lags);
	}
});

test("what Lighthouse finds", async () => {
	for (const [name, path] of Object.entries({ overview: home, sites: `${home}/sites`, site: `${home}/sites/${place.site}` }))
		figures.lighthouse[name] = await weigh(path);
});

/** Lighthouse's scores of a page, of 100. */
async function weigh(path: string) {
	const result = await lighthouse(place.baseUrl + path, {
		port,
		logLevel: "error",
		output: "json",
		onlyCategories: ["accessibility", "best-practices"],
		formFactor: "desktop",
		screenEmulation: { disabled: true },
		disableStorageReset: true, // the session stays
	});
	const { categories, audits, finalDisplayedUrl } = result?.lhr ?? {};
	if (finalDisplayedUrl !== place.baseUrl + path) throw new Error(`it looked at ${finalDisplayedUrl} for ${path}`);
	for (const audit of Object.values(audits ?? {})) {
		// biome-ignore lint/suspicious/noConsole: for whoever runs the bench to know more
		if (audit.score !== null && audit.score < 1 && audit.scoreDisplayMode === "binary") console.log(`${path}: ${audit.title}`);
	}
	const score = (name: string) => Math.round(100 * (categories?.[name]?.score ?? Number.NaN));
	return { accessibility: score("accessibility"), bestPractices: score("best-practices") };
}
