// @vitest-environment jsdom
import { Code, ConnectError, createRouterTransport } from "@connectrpc/connect";
import { TransportProvider } from "@connectrpc/connect-query";
import { MantineProvider } from "@mantine/core";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { cleanup, render, screen, waitFor } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import type { ReactNode } from "react";
import { afterEach, beforeAll, expect, test } from "vitest";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { start } from "../language/language.js";
import { Act, Confirmed, Permit, Permitted } from "./Act.js";

beforeAll(async () => {
	// What jsdom lacks and Mantine asks for.
	window.matchMedia = (media) => ({
		matches: false,
		media,
		onchange: null,
		addListener() {},
		removeListener() {},
		addEventListener() {},
		removeEventListener() {},
		dispatchEvent: () => false,
	});
	window.ResizeObserver = class {
		observe() {}
		unobserve() {}
		disconnect() {}
	};
	await start("en");
});
afterEach(cleanup);

function show(children: ReactNode, suspend: () => Promise<object>) {
	const transport = createRouterTransport(({ service }) => service(SiteService, { suspendSite: suspend as never }));
	render(
		<MantineProvider env="test">
			<TransportProvider transport={transport}>
				<QueryClientProvider client={new QueryClient()}>{children}</QueryClientProvider>
			</TransportProvider>
		</MantineProvider>,
	);
}

const request = { organizationId: "o", siteId: "s" };

test("a button shows that it acts, acts once, and says in words what went wrong", async () => {
	let fail: (error: unknown) => void = () => undefined;
	let calls = 0;
	show(
		<Act method={SiteService.method.suspendSite} request={request}>
			Suspend
		</Act>,
		() => {
			calls++;
			return new Promise((_, failed) => (fail = failed));
		},
	);
	const button = screen.getByRole("button");
	await userEvent.click(button);
	expect(button.getAttribute("aria-busy")).toBe("true");
	await userEvent.click(button);
	await waitFor(() => expect(calls).toBe(1));
	fail(new ConnectError("the site is in the trash", Code.FailedPrecondition));
	expect((await screen.findByRole("alert")).textContent).toContain("The site is in the trash.");
	expect(button.getAttribute("aria-busy")).toBe("false");
	expect(calls).toBe(1);
});

test("what is hard to take back happens only when its name was typed", async () => {
	let calls = 0;
	show(
		<Confirmed method={SiteService.method.suspendSite} request={request} title="Really?" explain="It stops." typed="blog" confirm="Yes">
			Suspend
		</Confirmed>,
		async () => {
			calls++;
			return {};
		},
	);
	await userEvent.click(screen.getByRole("button", { name: "Suspend" }));
	const yes = await screen.findByRole("button", { name: "Yes" });
	expect((yes as HTMLButtonElement).disabled).toBe(true);
	await userEvent.type(screen.getByLabelText("Type blog to go on"), "blo");
	expect((yes as HTMLButtonElement).disabled).toBe(true);
	expect(calls).toBe(0);
	await userEvent.type(screen.getByLabelText("Type blog to go on"), "g");
	await userEvent.click(yes);
	await waitFor(() => expect(calls).toBe(1));
	await waitFor(() => expect(screen.queryByRole("dialog")).toBeNull());
});

test("what somebody may not do is not offered", () => {
	const method = SiteService.method.suspendSite;
	show(
		<Permit value={({ name }) => name !== "SuspendSite"}>
			<Act method={method} request={request}>
				Suspend
			</Act>
			<Confirmed method={method} request={request} title="Really?" explain="It stops." confirm="Yes">
				Suspend
			</Confirmed>
			<Permitted method={method}>Suspend</Permitted>
			<Permitted method={SiteService.method.getSite}>Look</Permitted>
		</Permit>,
		async () => ({}),
	);
	expect(screen.queryByText("Suspend")).toBeNull();
	expect(screen.getByText("Look")).toBeTruthy();
});
