import { useQuery } from "@connectrpc/connect-query";
import { AccountService } from "../gen/chom/account/v1/account_service_pb.js";

/** Who is signed in. */
export const useCaller = () => useQuery(AccountService.method.getCaller, {}, { refetchInterval: 60_000 });
