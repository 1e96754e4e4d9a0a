import { afterAll, beforeAll, expect, test } from "vitest";
import { type Chomd, startChomd } from "../chomd.js";
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import { byRole, inPerson, permits } from "./permits.js";
import { roleNames, roleOf } from "./roles.js";

let chomd: Chomd;
beforeAll(async () => {
	chomd = await startChomd();
});
afterAll(() => chomd.stop());

test("what pages offer is what the control plane's table allows", async () => {
	const page = await (await fetch(`${chomd.baseUrl}/api/docs/authorization`)).text();
	const rows = [...page.matchAll(/<tr id="(\w+)">.*?<\/th>(.*?)<\/tr>/g)].map(([, call, cells]) => {
		const [who, role, scope, , stepUp, , person] = [...(cells ?? "").matchAll(/<td>(.*?)<\/td>/g)].map(([, text]) => text);
		return {
			call,
			role,
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
});

test("a role may what the ones before it may, and who acts for somebody less", () => {
	expect(permits({ role: Role.VIEWER, inPerson: true }, "SuspendSite")).toBe(false);
	expect(permits({ role: Role.ADMIN, inPerson: true }, "SuspendSite")).toBe(true);
	expect(permits({ role: Role.ADMIN, inPerson: true }, "CloseOrganization")).toBe(false);
	expect(permits({ role: Role.OWNER, inPerson: false }, "CloseOrganization")).toBe(false);
	expect(permits({ role: Role.UNSPECIFIED, inPerson: true }, "RevokeToken")).toBe(true); // not about an organization
});

test("operators may what owners may; who is bound to some sites is no admin", () => {
	expect(roleOf(true, undefined, false)).toBe(Role.OWNER);
	expect(roleOf(false, { role: Role.VIEWER }, false)).toBe(Role.VIEWER);
	expect(roleOf(false, undefined, true)).toBe(Role.MEMBER);
	expect(roleOf(false, undefined, false)).toBe(Role.UNSPECIFIED); // not known yet
});
