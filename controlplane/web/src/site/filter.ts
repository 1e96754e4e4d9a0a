import { type Site, State } from "../gen/chom/site/v1/site_pb.js";

export interface Filter {
	/** Words; each must be in the name, a domain, a tag or the type. */
	q?: string;
	state?: State;
	tag?: string;
}

/** What to choose otherwise; undefined takes a choice back. */
export type Change = { [Part in keyof Filter]: Filter[Part] | undefined };

export const changed = (filter: Filter, part: Change) =>
	Object.fromEntries(Object.entries({ ...filter, ...part }).filter(([, value]) => value !== undefined && value !== "")) as Filter;

export const sameFilter = (a: Filter, b: Filter) => a.q === b.q && a.state === b.state && a.tag === b.tag;

/** The sites that a filter leaves. Those in the trash show only where they are asked for. */
export function filterSites(sites: readonly Site[], { q = "", state, tag }: Filter): Site[] {
	const words = q.toLowerCase().split(/\s+/).filter(Boolean);
	return sites.filter((site) => {
		if (state === undefined ? trashed(site) : site.state !== state) return false;
		if (tag !== undefined && !site.tags.includes(tag)) return false;
		return words.every(
			(word) =>
				site.name.includes(word) ||
				site.type.includes(word) ||
				site.domains.some((domain) => domain.includes(word)) ||
				site.tags.some((own) => own.includes(word)),
		);
	});
}

export const trashed = ({ state }: Site) => state === State.TRASHED || state === State.DELETING;

/** How many sites there are of each state, and which tags. */
export function facets(sites: readonly Site[]) {
	const states = new Map<State, number>();
	const tags = new Map<string, number>();
	for (const site of sites) {
		states.set(site.state, (states.get(site.state) ?? 0) + 1);
		for (const tag of site.tags) tags.set(tag, (tags.get(tag) ?? 0) + 1);
	}
	return { states, tags };
}
