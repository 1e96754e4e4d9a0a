import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { SiteSchema, State } from "../gen/chom/site/v1/site_pb.js";
import { facets, filterSites } from "./filter.js";

const site = (name: string, state: State, domain: string, ...tags: string[]) => create(SiteSchema, { name, state, domains: [domain], tags, type: "wordpress" });
const sites = [
	site("blog", State.ACTIVE, "blog.example.com", "eu"),
	site("shop", State.FAILED, "shop.example.org", "eu", "shop"),
	site("old", State.TRASHED, "old.example.com"),
];
const names = (filter: Parameters<typeof filterSites>[1]) => filterSites(sites, filter).map(({ name }) => name);

test.each([
	["nothing shows all but the trash", {}, ["blog", "shop"]],
	["a word finds a name", { q: "blo" }, ["blog"]],
	["a word finds a domain, in any case", { q: "Example.ORG" }, ["shop"]],
	["a word finds a tag", { q: "shop" }, ["shop"]],
	["each word must be found", { q: "example eu shop" }, ["shop"]],
	["a state finds its own, the trash too", { state: State.TRASHED }, ["old"]],
	["a tag finds whole tags only", { tag: "e" }, []],
	["both must hold", { tag: "eu", state: State.FAILED }, ["shop"]],
])("%s", (_, filter, want) => expect(names(filter)).toEqual(want));

test("states and tags are counted", () => {
	const { states, tags } = facets(sites);
	expect([states.get(State.ACTIVE), states.get(State.TRASHED), tags.get("eu"), tags.get("shop")]).toEqual([1, 1, 2, 1]);
});
