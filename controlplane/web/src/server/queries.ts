import { useQuery } from "@connectrpc/connect-query";
import { ServerService } from "../gen/chom/fleet/v1/server_service_pb.js";

/** The organization in whose name work on servers themselves is done. */
export const platform = "00000000-0000-0000-0000-000000000000";

/** All servers; only operators may ask. */
export const useServers = ({ enabled = true } = {}) => useQuery(ServerService.method.listServers, { pageSize: 500 }, { enabled });

export const useServer = (serverId: string, interval?: number) =>
	useQuery(ServerService.method.getServer, { serverId }, interval ? { refetchInterval: interval } : {});
