// Where everything is. Each page comes in a piece of its own when it is first gone to.
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, Outlet, redirect } from "@tanstack/react-router";
import { toFilter } from "./audit/filter.js";
import { Crashed, NoPage } from "./frame/Lost.js";
import { State as SiteState } from "./gen/chom/site/v1/site_pb.js";
import { speakMore } from "./language/language.js";
import { type Range, rangeOf } from "./metric/range.js";

const root = createRootRoute({ component: Outlet, notFoundComponent: NoPage, errorComponent: Crashed });

const text = (value: unknown) => (typeof value === "string" && value !== "" ? value : undefined);

/** A page that says more than the first one knows. */
const wordy = <Page,>(page: Promise<Page>) => Promise.all([page, speakMore()]).then(([page]) => page);

// Before somebody is signed in.
const open = createRoute({ getParentRoute: () => root, id: "open", component: lazyRouteComponent(() => import("./account/Door.js"), "Door") });
const login = createRoute({
	getParentRoute: () => open,
	path: "/login",
	validateSearch: (search: Record<string, unknown>): { next?: string } => {
		const next = text(search.next);
		return next && /^\/(?![/\\])/.test(next) ? { next } : {};
	},
	component: lazyRouteComponent(() => import("./account/Login.js"), "Login"),
});
const signUp = createRoute({ getParentRoute: () => open, path: "/sign-up", component: lazyRouteComponent(() => import("./account/SignUp.js"), "SignUp") });
const verify = createRoute({
	getParentRoute: () => open,
	path: "/verify-email",
	component: lazyRouteComponent(() => import("./account/SignUp.js"), "VerifyEmail"),
});
const reset = createRoute({
	getParentRoute: () => open,
	path: "/reset-password",
	component: lazyRouteComponent(() => import("./account/ResetPassword.js"), "ResetPassword"),
});
const confirm = createRoute({
	getParentRoute: () => open,
	path: "/confirm-email",
	component: lazyRouteComponent(() => import("./account/ConfirmEmail.js"), "ConfirmEmail"),
});
const first = createRoute({
	getParentRoute: () => open,
	path: "/first-operator",
	component: lazyRouteComponent(() => import("./account/FirstOperator.js"), "FirstOperator"),
});
const invitation = createRoute({
	getParentRoute: () => open,
	path: "/invitation",
	component: lazyRouteComponent(() => import("./organization/Invitation.js"), "Invited"),
});
const device = createRoute({ getParentRoute: () => open, path: "/device", component: lazyRouteComponent(() => import("./account/Device.js"), "Device") });

// Within the frame.
const frame = createRoute({ getParentRoute: () => root, id: "frame", component: lazyRouteComponent(() => import("./frame/Frame.js"), "Frame") });
const home = createRoute({ getParentRoute: () => frame, path: "/", component: lazyRouteComponent(() => import("./organization/Home.js"), "Home") });
const newOrganization = createRoute({
	getParentRoute: () => frame,
	path: "/organizations/new",
	component: lazyRouteComponent(() => import("./organization/Home.js"), "NewOrganization"),
});
const account = createRoute({ getParentRoute: () => frame, path: "/account", component: lazyRouteComponent(() => import("./account/Account.js"), "Account") });
const factors = createRoute({
	getParentRoute: () => frame,
	path: "/account/second-factors",
	component: lazyRouteComponent(() => import("./account/SecondFactors.js"), "SecondFactors"),
});
const sessions = createRoute({
	getParentRoute: () => frame,
	path: "/account/sessions",
	component: lazyRouteComponent(() => import("./account/Sessions.js"), "Sessions"),
});

const tokens = createRoute({
	getParentRoute: () => frame,
	path: "/account/tokens",
	component: lazyRouteComponent(() => wordy(import("./token/Tokens.js")), "Tokens"),
});
const myEvents = createRoute({
	getParentRoute: () => frame,
	path: "/account/events",
	component: lazyRouteComponent(() => wordy(import("./audit/AuditLog.js")), "MyEvents"),
});

const servers = createRoute({ getParentRoute: () => frame, path: "/servers", component: lazyRouteComponent(() => import("./server/Servers.js"), "Servers") });
const addServer = createRoute({
	getParentRoute: () => frame,
	path: "/servers/new",
	component: lazyRouteComponent(() => import("./server/AddServer.js"), "AddServer"),
});
const server = createRoute({
	getParentRoute: () => frame,
	path: "/servers/$server",
	validateSearch: rangeOf,
	component: lazyRouteComponent(() => import("./server/Server.js"), "ServerPage"),
});

// The operators' area.
const area = createRoute({ getParentRoute: () => frame, id: "operator", component: lazyRouteComponent(() => wordy(import("./operator/Area.js")), "Area") });
const organizations = createRoute({
	getParentRoute: () => area,
	path: "/operator/organizations",
	component: lazyRouteComponent(() => import("./operator/Organizations.js"), "Organizations"),
});
const placement = createRoute({
	getParentRoute: () => area,
	path: "/operator/placement",
	component: lazyRouteComponent(() => import("./operator/Placement.js"), "Placement"),
});
const mails = createRoute({
	getParentRoute: () => area,
	path: "/operator/mails",
	component: lazyRouteComponent(() => import("./operator/Mails.js"), "Mails"),
});
const platformLog = createRoute({
	getParentRoute: () => area,
	path: "/operator/audit",
	validateSearch: toFilter,
	component: lazyRouteComponent(() => wordy(import("./audit/AuditLog.js")), "PlatformLog"),
});

const organization = createRoute({ getParentRoute: () => frame, path: "/o/$organization", component: Outlet });
const overview = createRoute({
	getParentRoute: () => organization,
	path: "/",
	component: lazyRouteComponent(() => import("./overview/Overview.js"), "Overview"),
});
export const sitesRoute = createRoute({
	getParentRoute: () => organization,
	path: "/sites",
	validateSearch: (search: Record<string, unknown>): { q?: string; state?: SiteState; tag?: string } => {
		const [q, tag, state] = [text(search.q), text(search.tag), Number(search.state)];
		return { ...(q && { q }), ...(tag && { tag }), ...(state > 0 && state in SiteState && { state }) };
	},
	component: lazyRouteComponent(() => import("./site/Sites.js"), "Sites"),
});
const createSite = createRoute({
	getParentRoute: () => organization,
	path: "/sites/new",
	component: lazyRouteComponent(() => import("./site/CreateSite.js"), "CreateSite"),
});
export const tabs = ["state", "graphs", "names", "backups", "logs", "tasks", "settings"] as const;
const site = createRoute({
	getParentRoute: () => organization,
	path: "/sites/$site",
	validateSearch: (search: Record<string, unknown>): { tab?: (typeof tabs)[number] } & Range => {
		const tab = tabs.find((name) => name === search.tab);
		return { ...(tab && { tab }), ...rangeOf(search) };
	},
	component: lazyRouteComponent(() => import("./site/Site.js"), "SitePage"),
});
const tasks = createRoute({ getParentRoute: () => organization, path: "/tasks", component: lazyRouteComponent(() => import("./task/Tasks.js"), "Tasks") });
const task = createRoute({
	getParentRoute: () => organization,
	path: "/tasks/$task",
	component: lazyRouteComponent(() => import("./task/Task.js"), "TaskPage"),
});

const team = createRoute({
	getParentRoute: () => organization,
	path: "/team",
	component: lazyRouteComponent(() => wordy(import("./organization/Team.js")), "Team"),
});
const organizationTokens = createRoute({
	getParentRoute: () => organization,
	path: "/tokens",
	component: lazyRouteComponent(() => wordy(import("./token/Tokens.js")), "OrganizationTokens"),
});
const webhooks = createRoute({
	getParentRoute: () => organization,
	path: "/webhooks",
	component: lazyRouteComponent(() => wordy(import("./webhook/Webhooks.js")), "Webhooks"),
});
const webhook = createRoute({
	getParentRoute: () => organization,
	path: "/webhooks/$webhook",
	component: lazyRouteComponent(() => wordy(import("./webhook/Webhook.js")), "WebhookPage"),
});
const auditLog = createRoute({
	getParentRoute: () => organization,
	path: "/audit",
	validateSearch: toFilter,
	component: lazyRouteComponent(() => wordy(import("./audit/AuditLog.js")), "AuditLog"),
});
const settings = createRoute({
	getParentRoute: () => organization,
	path: "/settings",
	component: lazyRouteComponent(() => wordy(import("./organization/Settings.js")), "OrganizationSettings"),
});

// Where mails lead.
const mailed = createRoute({
	getParentRoute: () => root,
	path: "/organizations/$organization",
	beforeLoad: ({ params }) => {
		throw redirect({ to: "/o/$organization/settings", params, replace: true });
	},
});
const mailedSite = createRoute({
	getParentRoute: () => root,
	path: "/organizations/$organization/sites/$site",
	beforeLoad: ({ params }) => {
		throw redirect({ to: "/o/$organization/sites/$site", params, replace: true });
	},
});
const mailedWebhook = createRoute({
	getParentRoute: () => root,
	path: "/organizations/$organization/webhooks/$webhook",
	beforeLoad: ({ params }) => {
		throw redirect({ to: "/o/$organization/webhooks/$webhook", params, replace: true });
	},
});

export const router = createRouter({
	routeTree: root.addChildren([
		mailed,
		mailedSite,
		mailedWebhook,
		open.addChildren([login, signUp, verify, reset, confirm, first, invitation, device]),
		frame.addChildren([
			home,
			newOrganization,
			account,
			factors,
			sessions,
			tokens,
			myEvents,
			servers,
			addServer,
			server,
			area.addChildren([organizations, placement, mails, platformLog]),
			organization.addChildren([overview, sitesRoute, createSite, site, tasks, task, team, organizationTokens, webhooks, webhook, auditLog, settings]),
		]),
	]),
	// Addresses are read by people: words are words there, and no JSON.
	parseSearch: (search) => Object.fromEntries(new URLSearchParams(search)),
	stringifySearch: (search) => {
		const words = new URLSearchParams(Object.entries(search).flatMap(([key, value]) => (value === undefined ? [] : [[key, String(value)]])));
		return words.size > 0 ? `?${words}` : "";
	},
	defaultPreload: "intent",
	defaultPreloadStaleTime: 0,
	scrollRestoration: true,
});

declare module "@tanstack/react-router" {
	interface Register {
		router: typeof router;
	}
}
