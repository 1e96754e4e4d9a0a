import { Group, Select, Text, TextInput } from "@mantine/core";
import { useDebouncedCallback } from "@mantine/hooks";
import { Link as RouterLink, useNavigate, useSearch } from "@tanstack/react-router";
import { useWindowVirtualizer } from "@tanstack/react-virtual";
import { memo, useCallback, useDeferredValue, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { BackupFeed, BackupMark } from "../backup/statuses.js";
import type { Site, State } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { Feed, SparkOf } from "../metric/Sparks.js";
import { useOrganizationId } from "../organization/here.js";
import { Permitted } from "../ui/Act.js";
import { SearchIcon } from "../ui/icons.js";
import { Empty, Failure, LinkButton, Page, Waiting } from "../ui/parts.js";
import { Time } from "../ui/Time.js";
import { sentence } from "../ui/words.js";
import { type Change, changed, type Filter, facets, filterSites, sameFilter } from "./filter.js";
import { useSites } from "./queries.js";
import { SiteState, siteStateKey } from "./SiteState.js";
import classes from "./Sites.module.css";

/** All sites of the organization. */
export function Sites() {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const search = useSearch({ from: "/frame/o/$organization/sites" });
	const navigate = useNavigate({ from: "/o/$organization/sites" });
	const { data, error, isPending, refetch } = useSites(organization);
	// What is typed shows at once; the address follows when the hand rests, so that it can be shared and gone back to.
	const [filter, setFilter] = useState<Filter>(search);
	const told = useRef<Filter>(search);
	const tell = useDebouncedCallback((next: Filter) => {
		if (sameFilter(next, told.current)) return;
		told.current = next;
		void navigate({ search: next, replace: true, resetScroll: false });
	}, 300);
	useEffect(() => tell(filter), [filter, tell]);
	useEffect(() => {
		if (sameFilter(search, told.current)) return;
		told.current = search; // somebody went to another address
		setFilter(search);
	}, [search]);
	const change = useCallback((part: Change) => setFilter((now) => changed(now, part)), []);
	const sites = data ?? [];
	const used = useDeferredValue(filter);
	const shown = useMemo(() => filterSites(data ?? [], used), [data, used]);
	const create = (
		<Permitted method={SiteService.method.createSite}>
			<LinkButton to="/o/$organization/sites/new" params={{ organization }}>
				{t("sites.create")}
			</LinkButton>
		</Permitted>
	);
	return (
		<Page title={t("sites.title")} aside={sites.length > 0 && create}>
			{error && !data && <Failure error={error} retry={() => void refetch()} />}
			{isPending && <Waiting rows={6} height={60} />}
			{data && sites.length === 0 && (
				<Empty title={t("sites.none.title")} action={create}>
					{t("sites.none.text")}
				</Empty>
			)}
			{sites.length > 0 && (
				<>
					<Group gap="sm" role="search">
						<TextInput
							aria-label={t("sites.search")}
							placeholder={t("sites.search")}
							leftSection={<SearchIcon size={16} />}
							value={filter.q ?? ""}
							onChange={(event) => change({ q: event.currentTarget.value })}
							type="search"
							flex="1 1 14rem"
						/>
						<Choices sites={sites} state={filter.state} tag={filter.tag} onChange={change} />
						<Text size="sm" c="dimmed" role="status">
							{t("sites.count", { count: shown.length, total: sites.length })}
						</Text>
					</Group>
					{shown.length === 0 ? <Empty title={t("sites.noMatch.title")}>{t("sites.noMatch.text")}</Empty> : <Table sites={shown} />}
				</>
			)}
		</Page>
	);
}

/** Which state and which tag. It has nothing to do with each keystroke. */
const Choices = memo(function Choices({
	sites,
	state,
	tag,
	onChange,
}: {
	sites: readonly Site[];
	state: State | undefined;
	tag: string | undefined;
	onChange: (part: Change) => void;
}) {
	const { t } = useTranslation();
	const { states, tags } = useMemo(() => facets(sites), [sites]);
	return (
		<>
			<Select
				aria-label={t("sites.byState")}
				placeholder={t("sites.anyState")}
				data={[...states].map(([state, count]) => ({ value: String(state), label: `${t(siteStateKey(state))} (${count})` }))}
				value={state === undefined ? null : String(state)}
				onChange={(value) => onChange({ state: value === null ? undefined : (Number(value) as State) })}
				clearable
				w={180}
			/>
			{tags.size > 0 && (
				<Select
					aria-label={t("sites.byTag")}
					placeholder={t("sites.anyTag")}
					data={[...tags].sort(([a], [b]) => a.localeCompare(b)).map(([tag, count]) => ({ value: tag, label: `${tag} (${count})` }))}
					value={tag ?? null}
					onChange={(value) => onChange({ tag: value ?? undefined })}
					clearable
					searchable
					w={180}
				/>
			)}
		</>
	);
});

const rowHeight = 60;

/** Rows, of which only those in sight exist. */
const Table = memo(function Table({ sites }: { sites: readonly Site[] }) {
	const { t } = useTranslation();
	const organization = useOrganizationId();
	const list = useRef<HTMLDivElement>(null);
	const [top, setTop] = useState(0);
	useLayoutEffect(() => setTop(list.current?.offsetTop ?? 0), []);
	const rows = useWindowVirtualizer({
		count: sites.length,
		estimateSize: () => rowHeight,
		overscan: 6,
		scrollMargin: top,
		getItemKey: (row) => sites[row]?.id ?? row,
	});
	const inSight = rows.getVirtualItems();
	const ids = inSight.map(({ index }) => sites[index]?.id).join(" ");
	return (
		// biome-ignore-start lint/a11y/useSemanticElements: rows out of sight do not exist, which a real table cannot say
		// biome-ignore-start lint/a11y/useFocusableInteractive: nothing in it is done by its cells
		<div className={classes.table} role="table" aria-rowcount={sites.length + 1} aria-label={t("sites.title")}>
			<div role="rowgroup">
				<div className={classes.head} role="row" aria-rowindex={1}>
					<span role="columnheader">{t("sites.column.name")}</span>
					<span role="columnheader">{t("sites.column.state")}</span>
					<span role="columnheader" className={classes.wide}>
						{t("sites.column.requests")}
					</span>
					<span role="columnheader" className={classes.wide}>
						{t("sites.column.backups")}
					</span>
					<span role="columnheader" className={classes.wide}>
						{t("sites.column.tags")}
					</span>
					<span role="columnheader" className={classes.widest}>
						{t("sites.column.type")}
					</span>
					<span role="columnheader" className={classes.widest}>
						{t("sites.column.changed")}
					</span>
				</div>
			</div>
			<div role="rowgroup" ref={list} className={classes.rows} style={{ height: rows.getTotalSize() }}>
				{inSight.map((row) => {
					const site = sites[row.index];
					return site && <Row key={row.key} site={site} index={row.index} offset={row.start - top} />;
				})}
			</div>
			<Feed organization={organization} kind="requests" ids={ids} />
			<BackupFeed organization={organization} />
		</div>
		// biome-ignore-end lint/a11y/useFocusableInteractive: as above
		// biome-ignore-end lint/a11y/useSemanticElements: as above
	);
});

const Row = memo(function Row({ site, index, offset }: { site: Site; index: number; offset: number }) {
	return (
		// biome-ignore-start lint/a11y/useSemanticElements: as above
		// biome-ignore-start lint/a11y/useFocusableInteractive: the link in it takes the focus
		<div role="row" aria-rowindex={index + 2} className={classes.row} style={{ transform: `translateY(${offset}px)` }}>
			<div role="cell" className={classes.cell}>
				<RouterLink
					className={classes.name}
					to="/o/$organization/sites/$site"
					params={{ organization: site.organizationId, site: site.id }}
					style={{ color: "inherit", textDecoration: "none" }}
				>
					{site.name}
				</RouterLink>
				<div className={classes.sub}>{sentence(site.problem) || (site.domains[0] ?? "")}</div>
			</div>
			<div role="cell" className={classes.cell}>
				<SiteState of={site.state} />
			</div>
			<div role="cell" className={`${classes.cell} ${classes.wide}`}>
				<SparkOf kind="requests" id={site.id} />
			</div>
			<div role="cell" className={`${classes.cell} ${classes.wide}`}>
				<BackupMark site={site.id} />
			</div>
			<div role="cell" className={`${classes.cell} ${classes.wide}`}>
				{site.tags.map((tag) => (
					<span key={tag} className={classes.tag}>
						{tag}
					</span>
				))}
			</div>
			<div role="cell" className={`${classes.cell} ${classes.widest}`}>
				{site.type}
			</div>
			<div role="cell" className={`${classes.cell} ${classes.widest}`}>
				<Time of={site.updateTime} />
			</div>
		</div>
		// biome-ignore-end lint/a11y/useFocusableInteractive: as above
		// biome-ignore-end lint/a11y/useSemanticElements: as above
	);
});
