import { useInfiniteQuery } from "@connectrpc/connect-query";
import type { UseInfiniteQueryResult } from "@tanstack/react-query";
import { every } from "../api.js";
import type { AuditEvent } from "../gen/chom/audit/v1/audit_pb.js";
import { AuditService } from "../gen/chom/audit/v1/audit_service_pb.js";
import type { toRequest } from "./request.js";

/** Events, as many pages of them as were asked for. */
export type Pages = Pick<
	UseInfiniteQueryResult<{ pages: { events: AuditEvent[] }[] }>,
	"data" | "error" | "isPending" | "refetch" | "hasNextPage" | "fetchNextPage" | "isFetchingNextPage"
>;

const next = {
	pageParamKey: "pageToken" as const,
	getNextPageParam: ({ nextPageToken }: { nextPageToken: string }) => nextPageToken || undefined,
	// Who has gone back in time is not brought the newest meanwhile: all pages would be fetched anew for it.
	refetchInterval: ({ state }: { state: { data?: { pages: unknown[] } | undefined } }) =>
		(state.data?.pages.length ?? 0) > 1 ? false : (every as number | false),
};

/** What happened to an organization. */
export const useEvents = (request: ReturnType<typeof toRequest>) => useInfiniteQuery(AuditService.method.listAuditEvents, { ...request, pageToken: "" }, next);

/** What the reader did on the platform, and what was done to their account. */
export const useMyEvents = () => useInfiniteQuery(AuditService.method.listMyAuditEvents, { pageToken: "" }, next);
