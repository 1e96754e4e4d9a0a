import { timestampDate } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { Outcome } from "../gen/chom/audit/v1/audit_pb.js";
import { toFilter } from "./filter.js";
import { toRequest } from "./request.js";

const account = "0190b1c2-0000-7000-8000-000000000001";

test("an address is a filter, without what the API would refuse", () => {
	expect(toFilter({ actor: account, action: "site.", object: "x_1", outcome: "refused", from: "2026-11-27T10:00", other: "x" })).toEqual({
		actor: account,
		action: "site.",
		object: "x_1",
		outcome: "refused",
		from: "2026-11-27T10:00",
	});
	expect(toFilter({ actor: "somebody", action: "Site!", object: "<img>", outcome: "perhaps", from: "yesterday", to: "2026-13-01T00:00" })).toEqual({});
});

test("moments are those of the reader's zone", () => {
	const request = toRequest("o", { from: "2026-11-27T10:00", outcome: "done" });
	expect(request).toMatchObject({ organizationId: "o", actorId: "", action: "", object: "", outcome: Outcome.DONE });
	expect(request.startTime && timestampDate(request.startTime)).toEqual(new Date(2026, 10, 27, 10, 0));
	expect(request.endTime).toBeUndefined();
});
