// A person at the dashboard, for tests: a real control plane, and Debian's Chromium. SCREENSHOTS names a folder for pictures of
// each page, in both schemes, on a desk and on a phone; PICTURES one for those of the README.
import { writeFile } from "node:fs/promises";
import axe from "axe-core";
import { type Browser, type BrowserContext, chromium, type Locator, type Page } from "playwright-core";
import { afterEach, beforeAll, expect } from "vitest";
import { type Chomd, startChomd } from "./chomd.js";

export const password = "seven blue kettles whistle";
const desk = { width: 1280, height: 860 };
const phone = { width: 390, height: 780 };

/** Somebody at the dashboard, in a browser of their own. */
export interface Person {
	context: BrowserContext;
	page: Page;
	fill(label: string | RegExp, text: string): Promise<void>;
	press(name: string): Promise<void>;
	follow(name: string): Promise<void>;
	/** Waits for a page's own heading. */
	title(text: string): Promise<void>;
	says(text: string | RegExp): Promise<void>;
	go(path: string): Promise<unknown>;
	/** Looks at a page as those see it who cannot: axe finds nothing, in either scheme. */
	sound(name: string): Promise<void>;
}

/** The first of them, at a control plane that was just set up. What is here is there from the first test on. */
export interface Walk extends Person {
	chomd: Chomd;
	/** What no test of this file may have caused: errors of scripts, dialogs of strangers, requests to elsewhere. */
	wrong: string[];
	/** Somebody else comes. */
	another(): Promise<Person>;
}

interface Begin {
	/** Gives the control plane; a new one on this machine when left out. */
	begin?: () => Promise<Chomd>;
	/** Further flags of the browser. */
	flags?: string[];
	/** Where the browser keeps whom it trusts; its own when left out. */
	home?: string;
}

/** Begins a walk before the tests of a file, and ends it after them. */
export function walk({ begin = startChomd, flags = [], home }: Begin = {}): Walk {
	const wrong: string[] = [];
	const here = { wrong } as Walk;
	let browser: Browser;
	const open = async () => {
		const context = await browser.newContext({ viewport: desk, locale: "en-GB", timezoneId: "Europe/Berlin", reducedMotion: "reduce" });
		const page = await context.newPage();
		page.setDefaultTimeout(20_000);
		page.on("pageerror", (error) => wrong.push(String(error)));
		page.on("dialog", (dialog) => {
			wrong.push(`a script of a stranger ran: ${dialog.message()}`);
			void dialog.dismiss();
		});
		page.on("console", (message) => {
			// A refused call is an error to the browser, too, and so is what it does not do for pages that came by plain HTTP.
			const known = /^(Failed to load resource|The Cross-Origin-Opener-Policy header has been ignored)/;
			if (message.type() === "error" && !known.test(message.text())) wrong.push(message.text());
		});
		page.on("request", (request) => {
			const own = [here.chomd.baseUrl, `blob:${here.chomd.baseUrl}`, "data:"];
			if (!own.some((start) => request.url().startsWith(start))) wrong.push(`something from elsewhere: ${request.url()}`);
		});
		return { context, page };
	};
	beforeAll(async () => {
		here.chomd = await begin();
		browser = await chromium.launch({
			executablePath: "/usr/bin/chromium",
			args: ["--no-sandbox", "--disable-dev-shm-usage", ...flags],
			...(home && { env: { ...process.env, HOME: home } }),
		});
		Object.assign(here, await open());
		return async () => {
			await browser.close();
			await here.chomd.stop();
		};
	});
	afterEach(async ({ task }) => {
		if (task.result?.state !== "fail" || !process.env.SCREENSHOTS) return;
		for (const [place, page] of browser
			.contexts()
			.flatMap((context) => context.pages())
			.entries())
			await page.screenshot({ path: `${process.env.SCREENSHOTS}/failed ${task.name} ${place}.png`, timeout: 5_000 }).catch(() => undefined);
	});
	return Object.assign(here, hands(here, here), { another: async () => hands(await open(), here) });
}

/** What somebody does at their page. */
function hands<At extends { page: Page }>(at: At, walk: Walk): At & Person {
	return Object.assign(at as At & Person, {
		fill: (label: string | RegExp, text: string) => at.page.getByLabel(label, { exact: typeof label === "string" }).fill(text),
		press: (name: string) => at.page.getByRole("button", { name, exact: true }).first().click(),
		follow: (name: string) => at.page.getByRole("link", { name, exact: true }).first().click(),
		title: (text: string) => at.page.getByRole("heading", { level: 1, name: text, exact: true }).waitFor(),
		says: (text: string | RegExp) => at.page.getByText(text).first().waitFor(),
		go: (path: string) => at.page.goto(walk.chomd.baseUrl + path),
		sound: (name: string) => sound(at.page, name),
	});
}

async function sound(page: Page, name: string) {
	for (const colorScheme of ["light", "dark"] as const) {
		await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
		await page.locator(`html[data-mantine-color-scheme=${colorScheme}]`).waitFor();
		// Colours on their way are nobody's to read.
		await page.evaluate(() => Promise.allSettled(document.getAnimations().flatMap((one) => (one instanceof CSSTransition ? [one.finished] : []))));
		await page.evaluate(axe.source);
		const { violations } = await page.evaluate(
			(rules) => (globalThis as unknown as { axe: typeof axe }).axe.run({ resultTypes: ["violations"], ...(rules && { runOnly: rules }) }),
			colorScheme === "dark" ? ["color-contrast"] : null, // nothing else differs
		);
		const found = violations.flatMap(({ id, help, nodes }) =>
			nodes.map(({ html, any, all }) => `${id}: ${help}: ${html} ${[...any, ...all].map((check) => check.message).join("; ")}`),
		);
		expect(found, `${name}, ${colorScheme}`).toEqual([]);
		if (process.env.PICTURES && pictures[name] === colorScheme) await picture(page, `${process.env.PICTURES}/${name}.webp`);
		const folder = process.env.SCREENSHOTS;
		if (!folder) continue;
		await page.screenshot({ path: `${folder}/${name}-${colorScheme}-desk.png` });
		await page.setViewportSize(phone);
		await page.screenshot({ path: `${folder}/${name}-${colorScheme}-phone.png` });
		await page.setViewportSize(desk);
	}
	await page.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
}

/** What the README shows, and in which scheme. */
const pictures: Record<string, "light" | "dark"> = {
	"lab-overview": "light",
	sites: "light",
	"lab-site-creating": "dark",
	"lab-restored": "light",
	"lab-server": "dark",
};

async function picture(page: Page, file: string) {
	const devtools = await page.context().newCDPSession(page);
	const { data } = await devtools.send("Page.captureScreenshot", { format: "webp", quality: 75 });
	await writeFile(file, Buffer.from(data, "base64"));
	await devtools.detach();
}

/** Waits for what follows something that may ask for a proof of who sits there, and gives it. */
export async function through(person: Person, then: Locator) {
	const asked = person.page.getByRole("dialog", { name: "Confirm that it is you" });
	await asked.or(then).first().waitFor();
	if (await asked.isVisible()) {
		await asked.getByLabel("Password", { exact: true }).fill(password);
		await asked.getByRole("button", { name: "Confirm" }).click();
	}
	await then.waitFor();
}

/** The address in the newest mail to somebody that leads to a page. */
export async function mailedLink({ chomd }: Walk, email: string, page: string) {
	const mail = await chomd.mail(new RegExp(`^To: .*${email.replaceAll(".", "\\.")}[^]*/${page}#`, "m"));
	return new RegExp(`http\\S*/${page}#\\w+`).exec(mail)?.[0] ?? "";
}

/** Signs somebody up who is at the page for that. */
export async function signUp(walk: Walk, person: Person, email: string) {
	await person.title("Sign up"); // the login before it has an address too
	await person.fill("E-mail address", email);
	await person.fill("New password", password);
	await person.press("Sign up");
	await person.title("Look into your mailbox");
	await person.page.goto(await mailedLink(walk, email, "verify-email"));
	await person.fill("Password", password);
	await person.press("Go on");
	await person.title("Make your first organization");
}
