import "@mantine/spotlight/styles.css";
import { Spotlight, spotlight } from "@mantine/spotlight";
import { useNavigate } from "@tanstack/react-router";
import { useEffect, useRef } from "react";
import { useTranslation } from "react-i18next";
import { acting } from "../api.js";
import { Role } from "../gen/chom/organization/v1/organization_pb.js";
import { useHere } from "../organization/here.js";
import { permits } from "../organization/permits.js";
import { useRights } from "../organization/rights.js";
import { useSites } from "../site/queries.js";
import { SearchIcon, ServerIcon, SiteIcon } from "../ui/icons.js";

/** Everything that can be gone to, by its name. It comes with the first call for it. */
export function Commands({ times, operator }: { times: number; operator: boolean }) {
	const { t } = useTranslation();
	const navigate = useNavigate();
	const here = useHere();
	const organization = here?.id ?? "";
	const rights = useRights(organization);
	const as = acting.use();
	const sites = useSites(organization, { enabled: organization !== "" });
	// Enter goes to the first one that is there after a key: what comes later would not be it.
	const known = !sites.isLoading;
	const answered = useRef(0);
	useEffect(() => {
		if (!known || answered.current === times) return;
		answered.current = times;
		spotlight.open();
	}, [times, known]);
	const go = [
		...(here
			? [
					{ id: "overview", label: t("overview.title"), onClick: () => navigate({ to: "/o/$organization", params: { organization } }) },
					{ id: "sites", label: t("sites.title"), onClick: () => navigate({ to: "/o/$organization/sites", params: { organization } }) },
					...(permits(rights, "CreateSite")
						? [{ id: "create", label: t("sites.create"), onClick: () => navigate({ to: "/o/$organization/sites/new", params: { organization } }) }]
						: []),
					{ id: "tasks", label: t("tasks.title"), onClick: () => navigate({ to: "/o/$organization/tasks", params: { organization } }) },
					...(rights.bound ? [] : [{ id: "team", label: t("team.title"), onClick: () => navigate({ to: "/o/$organization/team", params: { organization } }) }]),
					...(rights.may(Role.ADMIN)
						? [
								{ id: "tokens", label: t("tokens.ofOrganization"), onClick: () => navigate({ to: "/o/$organization/tokens", params: { organization } }) },
								{ id: "webhooks", label: t("webhooks.title"), onClick: () => navigate({ to: "/o/$organization/webhooks", params: { organization } }) },
								{ id: "audit", label: t("audit.title"), onClick: () => navigate({ to: "/o/$organization/audit", params: { organization } }) },
							]
						: []),
					{ id: "settings", label: t("settings.title"), onClick: () => navigate({ to: "/o/$organization/settings", params: { organization } }) },
				]
			: []),
		...(operator
			? [
					{ id: "servers", label: t("servers.title"), leftSection: <ServerIcon />, onClick: () => navigate({ to: "/servers" }) },
					{ id: "add", label: t("servers.add"), leftSection: <ServerIcon />, onClick: () => navigate({ to: "/servers/new" }) },
					{ id: "placement", label: t("placement.title"), onClick: () => navigate({ to: "/operator/placement" }) },
					{ id: "organizations", label: t("operator.organizations"), onClick: () => navigate({ to: "/operator/organizations" }) },
					{ id: "mails", label: t("mails.title"), onClick: () => navigate({ to: "/operator/mails" }) },
					{ id: "platform", label: t("audit.ofPlatform"), onClick: () => navigate({ to: "/operator/audit" }) },
				]
			: []),
		...(as
			? []
			: [
					{ id: "account", label: t("account.title"), onClick: () => navigate({ to: "/account" }) },
					{ id: "factors", label: t("factors.title"), onClick: () => navigate({ to: "/account/second-factors" }) },
					{ id: "sessions", label: t("sessions.title"), onClick: () => navigate({ to: "/account/sessions" }) },
					{ id: "own tokens", label: t("tokens.title"), onClick: () => navigate({ to: "/account/tokens" }) },
					{ id: "own events", label: t("audit.mine"), onClick: () => navigate({ to: "/account/events" }) },
				]),
	];
	const found = (sites.data ?? []).map((site) => ({
		id: site.id,
		label: site.name,
		description: site.domains[0] ?? "",
		leftSection: <SiteIcon />,
		onClick: () => navigate({ to: "/o/$organization/sites/$site", params: { organization, site: site.id } }),
	}));
	return (
		<Spotlight
			actions={[
				{ group: t("commands.go"), actions: go.map((action) => ({ ...action, onClick: () => void action.onClick() })) },
				{ group: t("sites.title"), actions: found.map((action) => ({ ...action, onClick: () => void action.onClick() })) },
			]}
			shortcut={null}
			highlightQuery
			limit={12}
			attributes={{ content: { "aria-label": t("commands.open") } }}
			lockScroll={false}
			nothingFound={t("commands.nothing")}
			searchProps={{ placeholder: t("commands.placeholder"), "aria-label": t("commands.open"), leftSection: <SearchIcon /> }}
		/>
	);
}
