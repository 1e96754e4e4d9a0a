// Mails lead to pages that exist: what the control plane writes into them is read where it is written.
import { readdir, readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { router } from "./router.js";

const controlplane = new URL("../../", import.meta.url);

/** The addresses in mails, with ids that stand for any. */
async function mailed(): Promise<string[]> {
	const found = new Set<string>();
	for (const file of await readdir(controlplane, { recursive: true })) {
		if (!file.endsWith(".go") || file.endsWith("_test.go") || file.startsWith("web/")) continue;
		const text = await readFile(new URL(file, controlplane), "utf8");
		// The public URL, and then words and ids by turns.
		for (const [, sum] of text.matchAll(/\b(?:PublicURL|config\.URL) \+ ((?:"[^"]*"|[\w.()]+)(?: \+ (?:"[^"]*"|[\w.()]+))*)/g)) {
			found.add((sum ?? "").replaceAll(/"([^"]*)"|[\w.()]+|\s\+\s/g, (part, words) => words ?? (part === " + " ? "" : "x")));
		}
		if (file.startsWith("account/")) for (const [, page] of text.matchAll(/\bpage\w+\s*= "(\/[^"]*)"/g)) found.add(page ?? "");
	}
	return [...found].map((address) => address.replace(/#.*/, ""));
}

test("mails lead to pages that exist", async () => {
	const addresses = await mailed();
	expect(addresses).toContain("/organizations/x/sites/x");
	expect(addresses).toContain("/organizations/x/webhooks/x");
	expect(addresses).toContain("/verify-email");
	const pages = Object.keys(router.routesByPath).map((path) => new RegExp(`^${path.replaceAll(/\$\w+/g, "[^/]+")}$`));
	for (const address of addresses)
		expect(
			pages.some((page) => page.test(address)),
			`${address} has a page`,
		).toBe(true);
});
