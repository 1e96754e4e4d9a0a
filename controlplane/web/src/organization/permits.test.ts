import { afterAll, beforeAll, expect, test } from "vitest";
import { type Chomd, startChomd } from "../chomd.js";
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import { byRole, inPerson, permits, whole } from "./permits.js";
import { roleNames } from "./roles.js";

let chomd: Chomd;
beforeAll(async () => {
	chomd = await startChomd();
});
afterAll(() => chomd.stop());

test("what pages offer is what the control plane's table allows", async () => {
	const page = await (await fetch(`${chomd.baseUrl}/api/docs/authorization`)).text();
	const rows = [...page.matchAll(/<tr id="(\w+)">.*?<\/th>(.*?)<\/tr>/g)].map(([, call, cells]) => {
		const [who, role, scope, sites, stepUp, , person] = [...(cells ?? "").matchAll(/<td>(.*?)<\/td>/g)].map(([, text]) => text);
		return {
			call,
			role,
			whole: who === "members" && sites === "all",
			closed: who === "members" && role !== "viewer",
			changes: who === "members" && scope !== "read",
			acts: who === "members" && stepUp !== "yes" && person !== "yes",
		};
	});
	expect(rows.length).toBeGreaterThan(100);
	for (const role of [Role.MEMBER, Role.ADMIN, Role.OWNER] as const) {
		const theirs = rows.filter((row) => row.closed && row.role === roleNames[role]).map(({ call }) => call);
		expect(byRole[role].split(" ").sort(), roleNames[role]).toEqual(theirs.sort());
	}
	const theirs = rows.filter((row) => row.changes && !row.acts).map(({ call }) => call);
	expect(inPerson.split(" ").sort()).toEqual(theirs.sort());
	expect(whole.split(" ").sort()).toEqual(
		rows
			.filter((row) => row.whole)
			.map(({ call }) => call)
			.sort(),
	);
});

test("a role may what the ones before it may, and who acts for somebody less", () => {
	const all = { bound: false, inPerson: true };
	expect(permits({ ...all, role: Role.VIEWER }, "SuspendSite")).toBe(false);
	expect(permits({ ...all, role: Role.ADMIN }, "SuspendSite")).toBe(true);
	expect(permits({ ...all, role: Role.ADMIN }, "CloseOrganization")).toBe(false);
	expect(permits({ ...all, role: Role.OWNER, inPerson: false }, "CloseOrganization")).toBe(false);
	expect(permits({ ...all, role: Role.UNSPECIFIED }, "RevokeToken")).toBe(true); // not about an organization
});

test("who is bound to some sites may nothing that is about all", () => {
	const bound = { role: Role.MEMBER, bound: true, inPerson: true };
	expect(permits(bound, "SuspendSite")).toBe(true);
	expect(permits(bound, "CreateSite")).toBe(false);
	expect(permits({ ...bound, role: Role.VIEWER }, "ListMembers")).toBe(false);
});
