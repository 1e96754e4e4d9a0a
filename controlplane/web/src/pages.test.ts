// People's pages in a real browser: Debian's Chromium.
import { createHmac } from "node:crypto";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Chomd, startChomd } from "./chomd.js";
import { connect } from "./client.js";

const password = "seven blue kettles whistle";
let chomd: Chomd;
let browser: Browser;
let page: Page;
const wrong: string[] = [];

beforeAll(async () => {
	chomd = await startChomd();
	browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
	page = await browser.newPage();
	page.setDefaultTimeout(20_000);
	page.on("pageerror", (error) => wrong.push(String(error)));
}, 60_000);
afterAll(async () => {
	await browser.close();
	await chomd.stop();
});

async function fill(label: string, text: string) {
	await page.getByLabel(label).fill(text);
}

const press = (name: string) => page.getByRole("button", { name, exact: true }).first().click();
const title = (text: string) => page.getByRole("heading", { name: text }).waitFor();

test("a program is let in by its person, signed in with a password", async () => {
	const chom = connect(chomd);
	await chom.accounts.createFirstOperator({ setupSecret: chomd.setupSecret, email: "operator@example.com", password });
	const begun = await chom.deviceLogins.beginDeviceLogin({ name: "chom on build-7", scope: 3 });
	await page.goto(begun.verificationUrlComplete);
	await title("Sign in");
	await fill("E-mail address", "operator@example.com");
	await fill("Password", "not the right one");
	await press("Sign in");
	await page.getByRole("alert").filter({ hasText: /./ }).first().waitFor();
	await fill("Password", password);
	await press("Sign in");
	await title("Let this program act for you?");
	expect(await page.getByRole("main").innerText()).toContain("chom on build-7");
	await shot("device");
	await press("Yes, let it");
	await title("The program is signed in");
	const { token } = await chom.deviceLogins.pollDeviceLogin({ deviceCode: begun.deviceCode });
	const caller = await connect({ baseUrl: chomd.baseUrl, token }).accounts.getCaller({});
	expect(caller.email).toBe("operator@example.com");
}, 60_000);

test("somebody signs up by the mailed link", async () => {
	await page.goto(`${chomd.baseUrl}/login`);
	await press("Sign out");
	await title("Sign in");
	await shot("login");
	await page.getByRole("link", { name: "Sign up" }).click();
	await title("Sign up");
	await fill("E-mail address", "lena@example.com");
	await page.getByLabel(/New password/).fill(password);
	await press("Sign up");
	await title("Look into your mailbox");
	const mail = (await chomd.mail()).replaceAll(/=\r?\n/g, "").replaceAll("=3D", "=");
	const mailed = /http\S*\/verify-email#chomverify_\w+/.exec(mail)?.[0] ?? "";
	await page.goto(mailed);
	await title("Is this your address?");
	expect(page.url()).not.toContain("chomverify_"); // it stays in no history
	await fill("Password", password);
	await press("Go on");
	await title("You are signed in");
	expect(await page.getByRole("main").innerText()).toContain("lena@example.com");
}, 60_000);

test("a second factor is set up by its QR code, and asked for at the next login", async () => {
	await page.goto(`${chomd.baseUrl}/account/second-factors`);
	await press("Set up an authenticator app");
	await page.getByRole("img", { name: "QR code" }).waitFor();
	await shot("totp");
	const seed = await page.locator("code").innerText();
	await fill("6 digits", digits(seed, Date.now()));
	await press("Confirm");
	await title("Keep these recovery codes");
	const recovery = await page.locator("li code").first().innerText();
	await page.goto(`${chomd.baseUrl}/login`);
	await press("Sign out");
	await fill("E-mail address", "lena@example.com");
	await fill("Password", password);
	await press("Sign in");
	await title("Prove that it is you");
	await page.getByLabel(/6 digits/).fill(recovery);
	await press("Go on");
	await title("You are signed in");
}, 60_000);

test("a passkey is added, and signs in alone", async () => {
	const devtools = await page.context().newCDPSession(page);
	await devtools.send("WebAuthn.enable");
	await devtools.send("WebAuthn.addVirtualAuthenticator", {
		options: { protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
	});
	await page.goto(`${chomd.baseUrl}/account/second-factors`);
	await fill("Name of a new passkey", "laptop");
	await press("Add a passkey");
	await page.getByText("Passkey laptop").waitFor();
	await page.goto(`${chomd.baseUrl}/login`);
	await press("Sign out");
	await press("Use a passkey");
	await title("You are signed in");
	expect(await page.getByRole("main").innerText()).toContain("lena@example.com");
}, 60_000);

// digits are what an authenticator app shows at a time (RFC 6238).
function digits(seed: string, at: number): string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
	const bits = [...seed].map((letter) => alphabet.indexOf(letter).toString(2).padStart(5, "0")).join("");
	const key = Buffer.from((bits.match(/.{8}/g) ?? []).map((octet) => Number.parseInt(octet, 2)));
	const counter = Buffer.alloc(8);
	counter.writeBigUInt64BE(BigInt(Math.floor(at / 30_000)));
	const mac = createHmac("sha1", key).update(counter).digest();
	return String((mac.readUInt32BE((mac.at(-1) ?? 0) & 0xf) & 0x7fffffff) % 1_000_000).padStart(6, "0");
}

test("no script failed", () => expect(wrong).toEqual([]));

// SCREENSHOTS names a folder for pictures of what is shown.
async function shot(name: string) {
	if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png` });
}
