import { useQuery } from "@connectrpc/connect-query";
import { every } from "../api.js";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";

/** Who is signed in. Without an answer there is no page: that is asked again soon. */
export const useCaller = () => useQuery(AccountService.method.getCaller, {}, { refetchInterval: ({ state }) => (state.status === "error" ? every : 60_000) });
