import { Anchor, Button, Text } from "@mantine/core";
import { Fragment, type ReactNode } from "react";
import { useTranslation } from "react-i18next";
import { useCaller } from "../account/caller.js";
import { type Actor, ActorKind, type AuditEvent, Outcome } from "../gen/chom/audit/v1/audit_pb.js";
import { useMembers } from "../organization/rights.js";
import { platform } from "../server/queries.js";
import { useSites } from "../site/queries.js";
import { Item, List, Mark, Words } from "../ui/List.js";
import { Empty, Failure, Link, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import type { Filter } from "./filter.js";
import type { Pages } from "./queries.js";

interface EventsProps {
	of: Pages;
	/** Whose history it is; empty for the reader's own. */
	organization?: string;
	/** Asks for others like it. */
	onFilter?: (part: Filter) => void;
	/** What to say where there is none. */
	none: ReactNode;
}

/** What happened, the newest first, and more by a button. */
export function Events({
	of: { data, error, isPending, refetch, hasNextPage, fetchNextPage, isFetchingNextPage },
	organization = "",
	onFilter,
	none,
}: EventsProps) {
	const { t } = useTranslation();
	const names = useNames(organization);
	const events = data?.pages.flatMap(({ events }) => events) ?? [];
	return (
		<>
			{isPending && <Waiting rows={6} height={64} />}
			<Failure error={error} {...(!data && { retry: () => void refetch() })} />
			{data && events.length === 0 && <Empty title={t("audit.none")}>{none}</Empty>}
			{events.length > 0 && (
				<List label={t("audit.title")}>
					{events.map((event) => (
						<Event key={`${event.organizationId} ${event.sequence}`} of={event} names={names} onFilter={onFilter} />
					))}
				</List>
			)}
			{hasNextPage && (
				<div>
					<Button variant="default" loading={isFetchingNextPage} onClick={() => void fetchNextPage()}>
						{t("audit.more")}
					</Button>
				</div>
			)}
		</>
	);
}

function Event({ of, names, onFilter }: { of: AuditEvent; names: Names; onFilter: EventsProps["onFilter"] }) {
	const { t } = useTranslation();
	const who = names.who(of.actor);
	return (
		<Item
			title={
				<Only part={{ action: of.action }} what={of.action} onFilter={onFilter}>
					<code>{of.action}</code>
				</Only>
			}
			more={of.outcome === Outcome.REFUSED && <Mark>{t("audit.refused")}</Mark>}
		>
			{of.detail !== "" && (
				<Text size="sm" c="var(--mantine-color-text)">
					{of.detail}
				</Text>
			)}
			<Words
				of={[
					<Time key="time" of={of.time} exact />,
					of.actor && of.actor.id !== "" ? (
						<Only key="who" part={{ actor: of.actor.id }} what={who} onFilter={onFilter}>
							{who}
						</Only>
					) : (
						who
					),
					of.actor?.impersonatorId && (of.actor.impersonatorEmail ? t("audit.actingBy", { email: of.actor.impersonatorEmail }) : t("audit.acting")),
					of.actor?.tokenId && !of.actor.impersonatorId && t("audit.byToken"),
					of.actor?.address,
					of.object !== "" && of.object !== of.actor?.id && <Thing key="object" of={of} names={names} onFilter={onFilter} />,
				]}
			/>
		</Item>
	);
}

/** What it was done to: by its name where that is known, with the way there. */
function Thing({ of, names, onFilter }: { of: AuditEvent; names: Names; onFilter: EventsProps["onFilter"] }) {
	const { t } = useTranslation();
	const site = names.sites.get(of.object);
	const name = site ?? names.people.get(of.object) ?? of.object;
	return (
		<Fragment>
			{t("audit.on")}{" "}
			<Only part={{ object: of.object }} what={name} onFilter={onFilter}>
				{name === of.object ? <code>{name}</code> : name}
			</Only>
			{site && (
				<>
					{" ("}
					<Link to="/o/$organization/sites/$site" params={{ organization: of.organizationId, site: of.object }}>
						{t("audit.open")}
					</Link>
					)
				</>
			)}
		</Fragment>
	);
}

/** A word that asks for what else is so. */
function Only({ part, what, onFilter, children }: { part: Filter; what: string; onFilter: EventsProps["onFilter"]; children: ReactNode }) {
	const { t } = useTranslation();
	if (!onFilter) return children;
	return (
		<Anchor
			component="button"
			type="button"
			inherit
			c="inherit"
			ta="left"
			aria-label={t("audit.only", { what })}
			title={t("audit.only", { what })}
			onClick={() => onFilter(part)}
		>
			{children}
		</Anchor>
	);
}

interface Names {
	people: ReadonlyMap<string, string>;
	sites: ReadonlyMap<string, string>;
	who: (actor: Actor | undefined) => string;
}

/** Events tell ids: names are those of today. */
function useNames(organization: string): Names {
	const { t } = useTranslation();
	const { data: caller } = useCaller();
	const ours = organization !== "" && organization !== platform;
	const members = useMembers(organization, { enabled: ours, seldom: true });
	const sites = useSites(organization, { enabled: ours });
	const people = new Map(members.data?.members.map(({ accountId, email }) => [accountId, email]));
	if (caller) people.set(caller.accountId, caller.email);
	const kinds: Record<number, string> = {
		[ActorKind.SYSTEM]: t("audit.actor.system"),
		[ActorKind.CONSOLE]: t("audit.actor.console"),
		[ActorKind.STRANGER]: t("audit.actor.stranger"),
		[ActorKind.ORGANIZATION]: t("audit.actor.organization"),
		[ActorKind.AGENT]: t("audit.actor.agent"),
	};
	return {
		people,
		sites: new Map(sites.data?.map(({ id, name }) => [id, name])),
		who: (actor) =>
			kinds[actor?.kind ?? 0] ??
			people.get(actor?.id ?? "") ??
			(actor?.operatorEmail ? t("audit.actor.operator", { email: actor.operatorEmail }) : t("audit.actor.person", { id: actor?.id.slice(-8) ?? "" })),
	};
}
