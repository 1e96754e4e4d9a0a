import { Code } from "@connectrpc/connect";
import { ActionIcon, AppShell, Box, Burger, Button, Group, Menu, Select, Text, useMantineColorScheme } from "@mantine/core";
import { useDisclosure, useHotkeys } from "@mantine/hooks";
import { Link, Outlet, useLocation, useNavigate, useRouterState } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { useCaller } from "../account/caller.js";
import { isCode } from "../api.js";
import { choose, type Language, languages } from "../language/language.js";
import { useHere, useOrganizations } from "../organization/here.js";
import { HomeIcon, LightIcon, PersonIcon, SearchIcon, ServerIcon, SiteIcon, TaskIcon, TeamIcon } from "../ui/icons.js";
import { Logo } from "../ui/Logo.js";
import { Failure, Waiting } from "../ui/parts.js";
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
	if (isCode(caller.error, Code.Unauthenticated)) return <ToLogin next={href} />;
	return (
		<AppShell header={{ height: 56 }} navbar={{ width: 232, breakpoint: "sm", collapsed: { mobile: !opened } }} padding="lg" transitionDuration={0}>
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
					<Connection />
					{caller.data ? (
						<Suspense fallback={<Waiting />}>
							<Outlet />
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
	return (
		<Box component="ul" m={0} p={0} style={{ listStyle: "none", display: "grid", gap: 2 }}>
			{here && (
				<>
					<li>
						<Link className={classes.link} to="/o/$organization" params={{ organization }} activeOptions={{ exact: true }}>
							<HomeIcon /> {t("overview.title")}
						</Link>
					</li>
					<li>
						<Link className={classes.link} to="/o/$organization/sites" params={{ organization }}>
							<SiteIcon /> {t("sites.title")}
						</Link>
					</li>
					<li>
						<Link className={classes.link} to="/o/$organization/tasks" params={{ organization }}>
							<TaskIcon /> {t("tasks.title")}
						</Link>
					</li>
					<li>
						<Link className={classes.link} to="/o/$organization/team" params={{ organization }}>
							<TeamIcon /> {t("team.title")}
						</Link>
					</li>
				</>
			)}
			{operator && (
				<li>
					<Link className={classes.link} to="/servers">
						<ServerIcon /> {t("servers.title")}
					</Link>
				</li>
			)}
			<li>
				<Link className={classes.link} to="/account">
					<PersonIcon /> {t("account.title")}
				</Link>
			</li>
		</Box>
	);
}

const fresh = "new";

function Organizations() {
	const { t } = useTranslation();
	const navigate = useNavigate();
	const { data } = useOrganizations();
	const here = useHere();
	if (!here || !data) return null;
	return (
		<Select
			aria-label={t("organization.switch")}
			size="xs"
			w={190}
			data={[...data.organizations.map(({ id, name }) => ({ value: id, label: name })), { value: fresh, label: t("organization.other") }]}
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
