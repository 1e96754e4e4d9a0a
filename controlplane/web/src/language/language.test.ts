import { expect, test } from "vitest";
import { de } from "./de.js";
import { en } from "./en.js";

type Tree = { readonly [key: string]: string | Tree };

const flat = (tree: Tree, path = ""): [string, string][] =>
	Object.entries(tree).flatMap(([key, value]) => (typeof value === "string" ? [[path + key, value] as [string, string]] : flat(value, `${path}${key}.`)));

const places = (text: string) => (text.match(/\{\{\w+\}\}/g) ?? []).sort();

test("each text of another language says what the English one says", () => {
	const german = new Map(flat(de));
	for (const [key, english] of flat(en)) {
		expect(german.get(key), key).toBeTruthy();
		expect(places(german.get(key) ?? ""), key).toEqual(places(english));
	}
	expect(german.size).toBe(flat(en).length);
});
