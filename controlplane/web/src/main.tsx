import "@mantine/core/styles.css";
import "./theme.css";
import { TransportProvider } from "@connectrpc/connect-query";
import { MantineProvider } from "@mantine/core";
import { QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { queries, transport } from "./api.js";
import { start, wanted } from "./language/language.js";
import { router } from "./router.js";
import { colors, theme } from "./theme.js";

const nonce = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]')?.nonce ?? "";
const root = document.getElementById("root");
if (!root) throw new Error("the page has no root");

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
