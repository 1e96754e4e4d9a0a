import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { Proof, SiteStatusSchema, Standing } from "../gen/chom/backup/v1/backup_pb.js";
import { needOf } from "./needs.js";

const need = (standing: Standing, proof: Proof) => needOf(create(SiteStatusSchema, { siteId: "s", siteName: "blog", standing, proof, problem: "disk full" }));

test.each([
	["damaged backups", Standing.DAMAGED, Proof.PROVEN, "backupDamaged"],
	["overdue ones, before that they are not proven", Standing.OVERDUE, Proof.FAILED, "backupOverdue"],
	["failing ones", Standing.FAILING, Proof.NONE, "backupFailing"],
	["a drill that failed", Standing.WELL, Proof.FAILED, "drillFailed"],
	["what nobody has proven for long", Standing.UNWANTED, Proof.UNPROVEN, "unproven"],
] as const)("%s need somebody", (_, standing, proof, what) => expect(need(standing, proof)).toEqual({ what, siteId: "s", siteName: "blog", why: "disk full" }));

test("backups that are well and proven do not", () => expect(need(Standing.WELL, Proof.PROVEN)).toBeUndefined());
