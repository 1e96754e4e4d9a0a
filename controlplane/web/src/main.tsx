import "@mantine/core/styles.css";
import "./theme.css";
import { callUnaryMethod, createConnectQueryKey, TransportProvider } from "@connectrpc/connect-query";
import { MantineProvider } from "@mantine/core";
import { QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { queries, transport } from "./api.js";
import { AccountService } from "./gen/chom/account/v1/account_service_pb.js";
import { start, wanted } from "./language/language.js";
import { router } from "./router.js";
import { colors, theme } from "./theme.js";

const nonce = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]')?.nonce ?? "";
const root = document.getElementById("root");
if (!root) throw new Error("the page has no root");

// Every page has to know who is there: that is asked while its scripts are on their way.
const caller = AccountService.method.getCaller;
void queries.prefetchQuery({
	queryKey: createConnectQueryKey({ schema: caller, input: {}, transport, cardinality: "finite" }),
	queryFn: ({ signal }) => callUnaryMethod(transport, caller, {}, { signal }),
});

void start(wanted()).then(() =>
	createRoot(root).render(
		<StrictMode>
			<MantineProvider theme={theme} cssVariablesResolver={colors} defaultColorScheme="auto" getStyleNonce={() => nonce}>
				<TransportProvider transport={transport}>
					<QueryClientProvider client={queries}>
						<RouterProvider router={router} />
					</QueryClientProvider>
				</TransportProvider>
			</MantineProvider>
		</StrictMode>,
	),
);
