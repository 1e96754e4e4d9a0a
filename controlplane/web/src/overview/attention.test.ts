import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { CertificateSchema } from "../gen/chom/certificate/v1/certificate_pb.js";
import { ServerSchema, State as ServerState } from "../gen/chom/fleet/v1/server_pb.js";
import { SiteSchema, State as SiteState } from "../gen/chom/site/v1/site_pb.js";
import { attention } from "./attention.js";

const nothing = { sites: [], servers: [], certificates: [], backups: [] };
const whats = (part: Partial<Parameters<typeof attention>[0]>) => attention({ ...nothing, ...part }).map(({ what }) => what);
const server = (state: ServerState, online: boolean, problem = "") => create(ServerSchema, { id: "1", name: "web-1", state, online, problem });
const site = (state: SiteState, problem = "", ...pendingDomains: string[]) => create(SiteSchema, { id: "s", name: "blog", state, problem, pendingDomains });
const backup = { what: "backupFailing", siteId: "s", siteName: "blog", why: "disk full" } as const;

test("where all is well, nobody is needed", () => {
	expect(whats({ servers: [server(ServerState.ACTIVE, true), server(ServerState.PENDING, false)], sites: [site(SiteState.ACTIVE)] })).toEqual([]);
});

test.each([
	["a server that is not heard of", { servers: [server(ServerState.ACTIVE, false)] }, ["serverOffline"]],
	["a draining one too", { servers: [server(ServerState.DRAINING, false)] }, ["serverOffline"]],
	["a quarantined one, whether it is heard of or not", { servers: [server(ServerState.QUARANTINED, false, "seen twice")] }, ["serverQuarantined"]],
	["one with a problem", { servers: [server(ServerState.ACTIVE, true, "could not be prepared")] }, ["serverProblem"]],
	["a failed site", { sites: [site(SiteState.FAILED, "no space")] }, ["siteFailed"]],
	["a site that differs", { sites: [site(SiteState.ACTIVE, "answers 500")] }, ["siteProblem"]],
	["a site that waits for names", { sites: [site(SiteState.ACTIVE, "", "a.example.com")] }, ["namesPending"]],
	["but none in the trash", { sites: [site(SiteState.TRASHED, "no space")] }, []],
	["a certificate with an alarm", { certificates: [create(CertificateSchema, { alarmTime: { seconds: 1n } }), create(CertificateSchema)] }, ["certificate"]],
])("%s", (_, part, want) => expect(whats(part)).toEqual(want));

test("the worst comes first", () => {
	expect(
		whats({
			sites: [site(SiteState.ACTIVE, "", "a.example.com"), site(SiteState.FAILED)],
			servers: [server(ServerState.ACTIVE, true, "x"), server(ServerState.ACTIVE, false)],
			backups: [backup],
		}),
	).toEqual(["serverOffline", "siteFailed", "backupFailing", "serverProblem", "namesPending"]);
});
