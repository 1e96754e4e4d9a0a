import { callUnaryMethod, useTransport } from "@connectrpc/connect-query";
import { ActionIcon, Button, Group, SegmentedControl, Stack, Text, VisuallyHidden } from "@mantine/core";
import { keepPreviousData, useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { lazy, Suspense, useId, useState } from "react";
import { useTranslation } from "react-i18next";
import { MetricService } from "../gen/chom/metric/v1/metric_service_pb.js";
import { BackIcon, ForthIcon } from "../ui/icons.js";
import { Card, Dot, Empty, Failure, Waiting } from "../ui/parts.js";
import { type Store, store } from "../ui/store.js";
import classes from "./Graphs.module.css";
import { type Graph, type GraphKey, lookOf } from "./graphs.js";
import type { Mark } from "./Plot.js";
import { moved, type Range, rangeOf, type Span, spans, type Window, windowOf, zoomed } from "./range.js";
import { type Line, linesOf, summary, times, unmeasured } from "./series.js";
import { inWords, moment } from "./unit.js";

const Plot = lazy(() => import("./Plot.js"));

const seconds = (at: number) => ({ seconds: BigInt(at), nanos: 0 });

interface Answer {
	window: Window;
	moments: number[];
	/** Those of each graph. */
	lines: Line[][];
}

/** What was asked for all graphs of a page at once, on the same points. */
function useLines(organizationId: string, of: string, graphs: readonly Graph[], range: Range) {
	const transport = useTransport();
	return useQuery<Answer>({
		queryKey: ["metrics", organizationId, of, graphs.map(({ key }) => key), range],
		placeholderData: keepPreviousData,
		structuralSharing: false,
		// Hosts report once a minute. What was zoomed to does not change.
		refetchInterval: ({ state }) => (range.from === undefined ? Math.max(10, (state.data?.window.step ?? 0) / 2) * 1000 : false),
		queryFn: async ({ signal }) => {
			const window = windowOf(range, Date.now() / 1000);
			const { start, end, step } = window;
			const answers = await Promise.all(
				graphs.map((graph) =>
					callUnaryMethod(
						transport,
						MetricService.method.queryRange,
						{ organizationId, query: graph.query(of, step), startTime: seconds(start), endTime: seconds(end), step: seconds(step) },
						{ signal },
					),
				),
			);
			const lines = answers.map(({ matrix }, place) => linesOf(matrix?.series ?? [], window, Object.keys(graphs[place]?.lines ?? {})));
			return { window, moments: times(window), lines };
		},
	});
}

/** The span in the address, for all graphs of a page. */
function useRange(): [Range, (range: Range) => void] {
	const range = rangeOf(useSearch({ strict: false }) as Record<string, unknown>);
	const navigate = useNavigate();
	const go = (next: Range) => {
		const search = (now: object) => ({ ...now, range: undefined, from: undefined, to: undefined, ...next });
		void navigate({ to: ".", search: search as never, resetScroll: false });
	};
	return [range, go];
}

/** Graphs of a server or a site. They share a span of time, a crosshair, and what happened meanwhile. */
export function Graphs({
	organization,
	of,
	graphs,
	first,
	marks = nothing,
}: {
	organization: string;
	of: string;
	graphs: readonly Graph<GraphKey>[];
	/** When first values come. */
	first: string;
	marks?: readonly Mark[];
}) {
	const { t, i18n } = useTranslation();
	const [range, go] = useRange();
	const { data, error, isPending, isPlaceholderData, refetch } = useLines(organization, of, graphs, range);
	const [under] = useState(() => store<number | undefined>(undefined));
	const group = useId();
	const missing = data ? unmeasured(data.lines[0] ?? [], data.moments.length) : 0;
	const nothingAtAll = data?.lines.every((lines) => lines.length === 0) ?? false;
	return (
		<Stack gap="md">
			<Choice range={range} window={data?.window} go={go} />
			{error && <Failure error={error} retry={() => void refetch()} />}
			{isPending && !error && <Waiting rows={2} height={260} />}
			{data && nothingAtAll && (
				<Empty title={t(data.window.live ? "metric.none.title" : "metric.none.past")}>{data.window.live ? first : t("metric.none.other")}</Empty>
			)}
			{data && !nothingAtAll && (
				<>
					<Text size="sm" c="dimmed" mih="1.4em">
						<Under under={under} data={data} marks={marks} />
						{missing > 0.02 && t("metric.gaps", { part: inWords(missing, "ratio", i18n.language) })}
					</Text>
					<div className={classes.graphs} aria-busy={isPlaceholderData}>
						{graphs.map((graph, place) => (
							<One
								key={graph.key}
								graph={graph}
								lines={data.lines[place] ?? noLines}
								window={data.window}
								moments={data.moments}
								marks={marks}
								group={group}
								under={under}
								onZoom={(from, to) => go(zoomed(range, from, to))}
							/>
						))}
					</div>
				</>
			)}
		</Stack>
	);
}

const nothing: readonly Mark[] = [];
const noLines: readonly Line[] = [];

/** Which span, and the way back from one that was zoomed to. */
function Choice({ range, window, go }: { range: Range; window: Window | undefined; go: (range: Range) => void }) {
	const { t, i18n } = useTranslation();
	const zoom = range.from !== undefined;
	const kept = range.range ?? "1h";
	const back = range.range ? { range: range.range } : {};
	return (
		<Group gap="sm">
			<SegmentedControl
				size="xs"
				aria-label={t("metric.range")}
				value={zoom ? "" : kept}
				onChange={(value) => go(value === "1h" ? {} : { range: value as Span })}
				data={(Object.keys(spans) as Span[]).map((value) => ({ value, label: t(`metric.span.${value}`) }))}
			/>
			<Group gap={4}>
				<ActionIcon variant="default" size="md" aria-label={t("metric.earlier")} onClick={() => go(moved(range, -1, Date.now() / 1000))}>
					<BackIcon size={16} />
				</ActionIcon>
				<ActionIcon variant="default" size="md" disabled={!zoom} aria-label={t("metric.later")} onClick={() => go(moved(range, 1, Date.now() / 1000))}>
					<ForthIcon size={16} />
				</ActionIcon>
			</Group>
			{zoom ? (
				<>
					<Button size="compact-sm" variant="default" onClick={() => go(back)}>
						{t("metric.back")}
					</Button>
					<Text size="sm" role="status">
						{new Intl.DateTimeFormat(i18n.language, { dateStyle: "medium", timeStyle: "short" }).formatRange((range.from ?? 0) * 1000, (range.to ?? 0) * 1000)}
					</Text>
				</>
			) : (
				<Text size="sm" c="dimmed" role="status">
					{window && <Dot tone="good">{t("metric.live")}</Dot>}
				</Text>
			)}
		</Group>
	);
}

/** What happened where the crosshair is. */
function Under({ under, data, marks }: { under: Store<number | undefined>; data: Answer; marks: readonly Mark[] }) {
	const { i18n } = useTranslation();
	const place = under.use();
	const at = place === undefined ? undefined : data.moments[place];
	if (at === undefined) return null;
	const reach = Math.max(data.window.step, (data.window.end - data.window.start) / 100);
	const near = marks.filter((mark) => Math.abs(mark.at - at) <= reach).map(({ text, at }) => `${moment(at, reach * 100, i18n.language)} ${text}`);
	return near.length > 0 && <strong>{near.slice(0, 3).join(" · ")} </strong>;
}

function One({
	graph,
	lines,
	window,
	moments,
	marks,
	group,
	under,
	onZoom,
}: {
	graph: Graph<GraphKey>;
	lines: readonly Line[];
	window: Window;
	moments: readonly number[];
	marks: readonly Mark[];
	group: string;
	under: Store<number | undefined>;
	onZoom: (from: number, to: number) => void;
}) {
	const { t } = useTranslation();
	const title = t(`metric.graph.${graph.key}`);
	return (
		<Card title={title}>
			<div className={classes.graph}>
				{lines.length === 0 ? (
					<Text size="sm" c="dimmed">
						{t("metric.none.here")}
					</Text>
				) : (
					<>
						<Suspense fallback={<Waiting rows={1} height={190} />}>
							<Plot
								graph={graph}
								label={t("metric.picture", { title })}
								moments={moments}
								lines={lines}
								marks={marks}
								group={group}
								under={under}
								onZoom={onZoom}
							/>
						</Suspense>
						<Values graph={graph} title={title} lines={lines} window={window} moments={moments} under={under} />
					</>
				)}
			</div>
		</Card>
	);
}

/** The lines in figures: those of the whole span, and the newest or what is under the crosshair. */
function Values({
	graph,
	title,
	lines,
	window,
	moments,
	under,
}: {
	graph: Graph<GraphKey>;
	title: string;
	lines: readonly Line[];
	window: Window;
	moments: readonly number[];
	under: Store<number | undefined>;
}) {
	const { t, i18n } = useTranslation();
	const place = under.use();
	const at = place === undefined ? undefined : moments[place];
	const words = (value: number | null | undefined) => ((value ?? null) === null ? "–" : inWords(value as number, graph.unit, i18n.language));
	const nameOf = (name: string) => (name in graph.lines ? t(`metric.line.${graph.key}.${name}` as "metric.line.cpu.used") : name);
	return (
		<table className={classes.table}>
			<VisuallyHidden component="caption">{t("metric.figures", { title })}</VisuallyHidden>
			<thead>
				<tr>
					<th scope="col">
						<VisuallyHidden>{t("metric.what")}</VisuallyHidden>
					</th>
					<th scope="col">{at === undefined ? t("metric.last") : moment(at, window.end - window.start, i18n.language)}</th>
					<th scope="col">{t("metric.least")}</th>
					<th scope="col">{t("metric.mean")}</th>
					<th scope="col">{t("metric.most")}</th>
				</tr>
			</thead>
			<tbody>
				{lines.map(({ name, values }, number) => {
					const all = summary(values);
					return (
						<tr key={name}>
							<th scope="row">
								<Swatch {...lookOf(graph, name, number)} />
								{nameOf(name)}
							</th>
							<td>{words(at === undefined ? all?.last : values[place as number])}</td>
							<td>{words(all?.least)}</td>
							<td>{words(all?.mean)}</td>
							<td>{words(all?.most)}</td>
						</tr>
					);
				})}
			</tbody>
		</table>
	);
}

/** A piece of a line, as it looks in the picture. */
function Swatch({ color, dash }: ReturnType<typeof lookOf>) {
	return (
		<svg className={classes.swatch} data-color={color} width={22} height={8} aria-hidden="true" focusable="false">
			<path d="M0 4h22" stroke="currentColor" strokeWidth={2} strokeDasharray={dash.join(" ")} />
		</svg>
	);
}
