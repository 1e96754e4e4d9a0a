import { expect, test } from "vitest";
import { de } from "./de.js";
import { en } from "./en.js";
import { more } from "./en.more.js";

type Tree = { readonly [key: string]: string | Tree };

const flat = (tree: Tree, path = ""): [string, string][] =>
	Object.entries(tree).flatMap(([key, value]) => (typeof value === "string" ? [[path + key, value] as [string, string]] : flat(value, `${path}${key}.`)));

const places = (text: string) => (text.match(/\{\{\w+\}\}/g) ?? []).sort();

test("each text of another language says what the English one says", () => {
	const german = new Map(flat(de));
	const english = [...flat(en), ...flat(more)];
	for (const [key, text] of english) {
		expect(german.get(key), key).toBeTruthy();
		expect(places(german.get(key) ?? ""), key).toEqual(places(text));
	}
	expect(german.size).toBe(english.length);
});
