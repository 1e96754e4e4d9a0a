// The languages of the dashboard. English comes with it; others are loaded when they are wanted.
import i18next from "i18next";
import { initReactI18next } from "react-i18next";
import { en } from "./en.js";
import type { more } from "./en.more.js";

type English = typeof en & typeof more;

type Words<T> = { readonly [Key in keyof T]: T[Key] extends string ? string : Words<T[Key]> };

/** What each language must say. */
export type Catalog = Words<English>;

declare module "i18next" {
	interface CustomTypeOptions {
		defaultNS: "translation";
		resources: { translation: English };
	}
}

export const languages = { en: "English", de: "Deutsch" } as const;
export type Language = keyof typeof languages;

const load: Record<Exclude<Language, "en">, () => Promise<Catalog>> = {
	de: () => import("./de.js").then(({ de }) => de),
};

const kept = "chom-language";

/** What the reader chose, or else their browser's. */
export function wanted(): Language {
	const names = [localStorage.getItem(kept) ?? "", ...navigator.languages].map((name) => name.slice(0, 2));
	return names.find((name): name is Language => name in languages) ?? "en";
}

/** Fetches the texts that a page needs beside those of the first one. */
export async function speakMore() {
	const { more } = await import("./en.more.js");
	i18next.addResourceBundle("en", "translation", more, true, true);
}

export async function speak(language: Language) {
	if (language !== "en" && !i18next.hasResourceBundle(language, "translation")) {
		i18next.addResourceBundle(language, "translation", await load[language]());
	}
	await i18next.changeLanguage(language);
	document.documentElement.lang = language;
}

export function choose(language: Language) {
	localStorage.setItem(kept, language);
	return speak(language);
}

/** Makes ready; texts are React's to escape. */
export async function start(language: Language) {
	await i18next.use(initReactI18next).init({
		lng: "en",
		fallbackLng: "en",
		resources: { en: { translation: en } },
		interpolation: { escapeValue: false },
		showSupportNotice: false,
	} as Parameters<typeof i18next.init>[0]);
	await speak(language).catch(() => undefined); // a language that does not come is English
}
