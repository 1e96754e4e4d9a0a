import { Code } from "@connectrpc/connect";
import { ActionIcon, AppShell, Box, Burger, Button, Group, Menu, Select, Text, useMantineColorScheme } from "@mantine/core";
import { useDisclosure, useHotkeys } from "@mantine/hooks";
import { Link, type LinkProps, Outlet, useLocation, useNavigate, useRouterState } from "@tanstack/react-router";
import { lazy, type ReactNode, Suspense, useCallback, useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { useCaller } from "../account/caller.js";
import { acting, isCode } from "../api.js";
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import { choose, type Language, languages } from "../language/language.js";
import { useHere, useOrganizations } from "../organization/here.js";
import { permits } from "../organization/permits.js";
import { useRights } from "../organization/rights.js";
import { Permit } from "../ui/Act.js";
import {
	HomeIcon,
	HookIcon,
	KeyIcon,
	LightIcon,
	LogIcon,
	MailIcon,
	OrganizationIcon,
	PersonIcon,
	PlacementIcon,
	SearchIcon,
	ServerIcon,
	SettingsIcon,
	SiteIcon,
	TaskIcon,
	TeamIcon,
} from "../ui/icons.js";
import { Logo } from "../ui/Logo.js";
import { Failure, Waiting } from "../ui/parts.js";
import { Acting, ActingOver } from "./Acting.js";
import { Connection } from "./Connection.js";
import classes from "./Frame.module.css";
import { StepUp } from "./StepUp.js";

const Commands = lazy(() => import("./Commands.js").then(({ Commands }) => ({ default: Commands })));

/** What is around each page for somebody who is signed in. */
export function Frame() {
	const { t } = useTranslation();
	const { href } = useLocation();
	const caller = useCaller();
	const [opened, { toggle, close }] = useDisclosure();
	const [commands, setCommands] = useState(0); // how often they were called for
	useHotkeys([["mod+K", () => setCommands((times) => times + 1)]], []);
	const arrive = useArrive(close);
	const as = acting.use();
	const rights = useRights(useHere()?.id ?? "");
	const permit = useCallback(
		({ name }: { name: string }) => permits({ role: rights.role, bound: rights.bound, inPerson: rights.inPerson }, name),
		[rights.role, rights.bound, rights.inPerson],
	);
	if (as?.over) return <ActingOver as={as} />;
	if (isCode(caller.error, Code.Unauthenticated)) return <ToLogin next={href} />;
	return (
		<AppShell
			header={{ height: 56 }}
			navbar={{ width: 232, breakpoint: "sm", collapsed: { mobile: !opened } }}
			padding="lg"
			transitionDuration={0}
			className={classes.frame}
			data-acting={as ? true : undefined}
		>
			<a href="#main" className={classes.skip}>
				{t("frame.skip")}
			</a>
			<AppShell.Header className={classes.header}>
				<Group h="100%" px="md" gap="sm" wrap="nowrap">
					<Burger opened={opened} onClick={toggle} hiddenFrom="sm" size="sm" aria-label={t("frame.menu")} aria-expanded={opened} />
					<Box visibleFrom="xs">
						<Logo />
					</Box>
					<Organizations />
					<Group gap="xs" ml="auto" wrap="nowrap">
						<Button variant="default" size="xs" visibleFrom="sm" leftSection={<SearchIcon size={15} />} onClick={() => setCommands((times) => times + 1)}>
							{t("commands.open")} <span className={classes.keys}>&nbsp;Ctrl K</span>
						</Button>
						<ActionIcon variant="default" size="md" hiddenFrom="sm" aria-label={t("commands.open")} onClick={() => setCommands((times) => times + 1)}>
							<SearchIcon size={16} />
						</ActionIcon>
						<Look />
						<Person email={caller.data?.email ?? ""} />
					</Group>
				</Group>
			</AppShell.Header>
			<AppShell.Navbar p="sm" className={classes.navbar} aria-label={t("frame.navigation")}>
				<Places operator={caller.data?.operator ?? false} />
			</AppShell.Navbar>
			<AppShell.Main id="main" tabIndex={-1} ref={arrive}>
				<Box className={classes.main}>
					<Acting />
					<Connection />
					{caller.data ? (
						<Suspense fallback={<Waiting />}>
							<Permit value={permit}>
								<Outlet />
							</Permit>
						</Suspense>
					) : caller.error ? (
						<Failure error={caller.error} retry={() => void caller.refetch()} />
					) : (
						<Waiting />
					)}
				</Box>
			</AppShell.Main>
			<StepUp />
			{commands > 0 && (
				<Suspense fallback={null}>
					<Commands times={commands} operator={caller.data?.operator ?? false} />
				</Suspense>
			)}
		</AppShell>
	);
}

/** Leads to the login, once: while that is on its way the address is no longer the one to come back to. */
function ToLogin({ next }: { next: string }) {
	const navigate = useNavigate();
	const [back] = useState(next);
	useEffect(() => void navigate({ to: "/login", search: back === "/" ? {} : { next: back }, replace: true }), [navigate, back]);
	return null;
}

/** After a change of page the keyboard and the reader's voice are at its beginning, and the menu of a phone is out of the way. */
function useArrive(close: () => void) {
	const path = useRouterState({ select: ({ location }) => location.pathname });
	const main = useRef<HTMLElement>(null);
	const before = useRef(path);
	useEffect(() => {
		if (before.current === path) return;
		before.current = path;
		close();
		main.current?.focus({ preventScroll: true });
	}, [path, close]);
	return main;
}

function Places({ operator }: { operator: boolean }) {
	const { t } = useTranslation();
	const here = useHere();
	const organization = here?.id ?? "";
	const rights = useRights(organization);
	const as = acting.use();
	return (
		<Box component="ul" m={0} p={0} style={{ listStyle: "none", display: "grid", gap: 2 }}>
			{here && (
				<>
					<Place to="/o/$organization" organization={organization} icon={<HomeIcon />} name={t("overview.title")} exact />
					<Place to="/o/$organization/sites" organization={organization} icon={<SiteIcon />} name={t("sites.title")} />
					<Place to="/o/$organization/tasks" organization={organization} icon={<TaskIcon />} name={t("tasks.title")} />
					{!rights.bound && <Place to="/o/$organization/team" organization={organization} icon={<TeamIcon />} name={t("team.title")} />}
					{rights.may(Role.ADMIN) && (
						<>
							<Place to="/o/$organization/tokens" organization={organization} icon={<KeyIcon />} name={t("tokens.place")} />
							<Place to="/o/$organization/webhooks" organization={organization} icon={<HookIcon />} name={t("webhooks.title")} />
							<Place to="/o/$organization/audit" organization={organization} icon={<LogIcon />} name={t("audit.title")} />
						</>
					)}
					<Place to="/o/$organization/settings" organization={organization} icon={<SettingsIcon />} name={t("settings.place")} />
				</>
			)}
			{operator && (
				<>
					<li className={classes.group}>{t("operator.title")}</li>
					<Place to="/servers" icon={<ServerIcon />} name={t("servers.title")} />
					<Place to="/operator/placement" icon={<PlacementIcon />} name={t("placement.title")} />
					<Place to="/operator/organizations" icon={<OrganizationIcon />} name={t("operator.organizations")} />
					<Place to="/operator/mails" icon={<MailIcon />} name={t("mails.title")} />
					<Place to="/operator/audit" icon={<LogIcon />} name={t("audit.platform")} />
				</>
			)}
			{!as && (
				<>
					<li className={classes.group}>{t("frame.own")}</li>
					<Place to="/account" icon={<PersonIcon />} name={t("account.title")} />
				</>
			)}
		</Box>
	);
}

function Place({
	to,
	organization,
	icon,
	name,
	exact = false,
}: {
	to: NonNullable<LinkProps["to"]>;
	organization?: string;
	icon: ReactNode;
	name: string;
	exact?: boolean;
}) {
	return (
		<li>
			<Link
				className={classes.link ?? ""}
				{...({ to, ...(organization && { params: { organization } }) } as { to: "/" })}
				activeOptions={{ exact, includeSearch: false }}
			>
				{icon} {name}
			</Link>
		</li>
	);
}

const fresh = "new";

function Organizations() {
	const { t } = useTranslation();
	const navigate = useNavigate();
	const { data } = useOrganizations();
	const here = useHere();
	const as = acting.use();
	if (!here || !data) return null;
	return (
		<Select
			aria-label={t("organization.switch")}
			size="xs"
			w={190}
			data={[...data.organizations.map(({ id, name }) => ({ value: id, label: name })), ...(as ? [] : [{ value: fresh, label: t("organization.other") }])]}
			value={here.id}
			allowDeselect={false}
			searchable={data.organizations.length > 8}
			onChange={(id) => {
				if (id === fresh) void navigate({ to: "/organizations/new" });
				else if (id) void navigate({ to: "/o/$organization", params: { organization: id } });
			}}
		/>
	);
}

function Look() {
	const { t, i18n } = useTranslation();
	const { colorScheme, setColorScheme } = useMantineColorScheme();
	const schemes = { auto: t("look.auto"), light: t("look.light"), dark: t("look.dark") } as const;
	return (
		<Menu position="bottom-end" width={200}>
			<Menu.Target>
				<ActionIcon variant="default" size="md" aria-label={t("look.title")}>
					<LightIcon size={16} />
				</ActionIcon>
			</Menu.Target>
			<Menu.Dropdown>
				<Menu.Label>{t("look.title")}</Menu.Label>
				{(Object.keys(schemes) as (keyof typeof schemes)[]).map((scheme) => (
					<Menu.Item key={scheme} onClick={() => setColorScheme(scheme)} rightSection={colorScheme === scheme ? "✓" : undefined}>
						{schemes[scheme]}
					</Menu.Item>
				))}
				<Menu.Label>{t("look.language")}</Menu.Label>
				{(Object.keys(languages) as Language[]).map((language) => (
					<Menu.Item key={language} lang={language} onClick={() => void choose(language)} rightSection={i18n.language === language ? "✓" : undefined}>
						{languages[language]}
					</Menu.Item>
				))}
			</Menu.Dropdown>
		</Menu>
	);
}

function Person({ email }: { email: string }) {
	return (
		<Text size="sm" c="dimmed" visibleFrom="md" maw={220} truncate title={email}>
			{email}
		</Text>
	);
}
