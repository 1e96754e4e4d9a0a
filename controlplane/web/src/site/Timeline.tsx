import { useInfiniteQuery } from "@connectrpc/connect-query";
import { Button, Text } from "@mantine/core";
import type { TFunction } from "i18next";
import { useMemo } from "react";
import { useTranslation } from "react-i18next";
import type { Site } from "../gen/chom/site/v1/site_pb.js";
import { EventKind, EventOutcome, type SiteEvent, SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import type { Mark } from "../metric/Plot.js";
import { useNow } from "../ui/clock.js";
import { milliseconds, span } from "../ui/format.js";
import { BackupIcon, ChangeIcon, DownIcon, DrillIcon, LockIcon, RestoreIcon, TaskIcon } from "../ui/icons.js";
import { Card, Failure, Link, type Tone, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import classes from "./Timeline.module.css";

/** A site's events, newest first, page by page. */
const useEvents = (site: Site, pageSize: number) =>
	useInfiniteQuery(
		SiteService.method.listSiteEvents,
		{ organizationId: site.organizationId, siteId: site.id, pageSize, pageToken: "" },
		{ pageParamKey: "pageToken", getNextPageParam: ({ nextPageToken }) => nextPageToken || undefined },
	);

const icons = {
	[EventKind.UNSPECIFIED]: TaskIcon,
	[EventKind.CHANGE]: ChangeIcon,
	[EventKind.BACKUP]: BackupIcon,
	[EventKind.DRILL]: DrillIcon,
	[EventKind.RESTORE]: RestoreIcon,
	[EventKind.CERTIFICATE]: LockIcon,
	[EventKind.CERTIFICATE_LOST]: LockIcon,
	[EventKind.DOWN]: DownIcon,
} as const satisfies Record<EventKind, unknown>;

function words({ kind, outcome, subject }: SiteEvent, t: TFunction): string {
	const came = outcome === EventOutcome.DONE ? "done" : outcome === EventOutcome.FAILED ? "failed" : "running";
	switch (kind) {
		case EventKind.CHANGE:
			return t(`event.change.${came}`);
		case EventKind.BACKUP:
			return t(`event.backup.${came}`);
		case EventKind.DRILL:
			return t(`event.drill.${came}`);
		case EventKind.RESTORE:
			return subject === "undone" ? t("event.undone") : t(`event.restore.${came}`);
		case EventKind.CERTIFICATE:
			return t("event.certificate", { name: subject });
		case EventKind.CERTIFICATE_LOST:
			return t("event.certificateLost", { name: subject });
		case EventKind.DOWN:
			return t(`event.down.${came}`);
		default:
			return t("event.other"); // a kind that this page does not know yet
	}
}

const isBad = ({ kind, outcome }: SiteEvent) => kind === EventKind.DOWN || outcome === EventOutcome.FAILED;

function toneOf(event: SiteEvent): Tone {
	if (event.outcome === EventOutcome.RUNNING) return event.kind === EventKind.DOWN ? "bad" : "busy";
	return event.kind === EventKind.DOWN ? "warn" : isBad(event) ? "bad" : "good";
}

/** What happened to a site. */
export function Timeline({ site }: { site: Site }) {
	const { t } = useTranslation();
	const { data, error, isPending, refetch, hasNextPage, fetchNextPage, isFetchingNextPage } = useEvents(site, 10);
	const events = data?.pages.flatMap(({ events }) => events) ?? [];
	return (
		<Card title={t("event.title")}>
			{isPending && <Waiting />}
			{error && !data && <Failure error={error} retry={() => void refetch()} />}
			{data && events.length === 0 && (
				<Text size="sm" c="dimmed">
					{t("event.none")}
				</Text>
			)}
			<ol className={classes.events}>
				{events.map((event) => (
					<Happened key={`${event.kind} ${event.subject} ${event.id}`} event={event} organization={site.organizationId} />
				))}
			</ol>
			{hasNextPage && (
				<Button variant="default" size="compact-sm" mt="sm" loading={isFetchingNextPage} onClick={() => void fetchNextPage()}>
					{t("event.older")}
				</Button>
			)}
		</Card>
	);
}

function Happened({ event, organization }: { event: SiteEvent; organization: string }) {
	const { t } = useTranslation();
	const now = useNow();
	const Icon = icons[event.kind] ?? TaskIcon;
	const began = event.time ? milliseconds(event.time) : 0;
	const length = event.endTime
		? t("event.took", { span: span(milliseconds(event.endTime) - began) })
		: event.outcome === EventOutcome.RUNNING && t("event.lasts", { span: span(now - began) });
	return (
		<li className={classes.event}>
			<span className={classes.icon} data-tone={toneOf(event)}>
				<Icon size={16} />
			</span>
			<div className={classes.what}>
				{event.taskId ? (
					<Link to="/o/$organization/tasks/$task" params={{ organization, task: event.taskId }}>
						{words(event, t)}
					</Link>
				) : (
					words(event, t)
				)}
				{event.problem && <div className={classes.why}>{sentence(event.problem)}</div>}
			</div>
			<Text size="sm" c="dimmed" className={classes.when}>
				<Time of={event.time} />
				{length && <> · {length}</>}
			</Text>
		</li>
	);
}

/** The newest events as marks in graphs. */
export function useMarks(site: Site): Mark[] {
	const { t } = useTranslation();
	const { data } = useEvents(site, 100);
	return useMemo(
		() =>
			(data?.pages ?? []).flatMap(({ events }) =>
				events.map((event) => ({ at: event.time ? milliseconds(event.time) / 1000 : 0, bad: isBad(event), text: words(event, t) })),
			),
		[data, t],
	);
}
