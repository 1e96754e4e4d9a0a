import { timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Outcome } from "../gen/chom/audit/v1/audit_pb.js";
import { type Filter, moment } from "./filter.js";

/** What the API is asked. */
export function toRequest(organizationId: string, filter: Filter) {
	const [from, to] = [moment(filter.from), moment(filter.to)];
	return {
		organizationId,
		actorId: filter.actor ?? "",
		action: filter.action ?? "",
		object: filter.object ?? "",
		outcome: filter.outcome === "done" ? Outcome.DONE : filter.outcome === "refused" ? Outcome.REFUSED : Outcome.UNSPECIFIED,
		...(from && { startTime: timestampFromDate(from) }),
		...(to && { endTime: timestampFromDate(to) }),
	};
}
