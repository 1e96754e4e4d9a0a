import { callUnaryMethod, useTransport } from "@connectrpc/connect-query";
import { useDebouncedValue } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { memo, useEffect } from "react";
import { useTranslation } from "react-i18next";
import { Figure, MetricService } from "../gen/chom/metric/v1/metric_service_pb.js";
import { type Store, store } from "../ui/store.js";
import classes from "./Sparks.module.css";
import { type Spark, sparkOf } from "./spark.js";
import { inWords, type Unit } from "./unit.js";

type Sparks = Store<ReadonlyMap<string, Spark>>;

const none: ReadonlyMap<string, Spark> = new Map();

/** What lists show. Lines are kept here by id, outside of the rows: a row is drawn anew when its own line changes, and for no other. */
const kinds = {
	requests: { figure: Figure.REQUESTS, of: "siteIds", window: 86_400, whole: 0, unit: "perMinute", times: 60, lines: store(none) as Sparks },
	cpu: { figure: Figure.CPU, of: "serverIds", window: 3_600, whole: 1, unit: "ratio", times: 1, lines: store(none) as Sparks },
	memory: { figure: Figure.MEMORY, of: "serverIds", window: 3_600, whole: 1, unit: "ratio", times: 1, lines: store(none) as Sparks },
} as const satisfies Record<string, { figure: Figure; of: "siteIds" | "serverIds"; window: number; whole: number; unit: Unit; times: number; lines: Sparks }>;

export type SparkKind = keyof typeof kinds;

const most = 200; // ids in a call
const again = 30_000; // hosts report once a minute

/** Asks for the lines of those in sight, whose ids have a blank between them, in one call. It waits until the hand rests, and shows nothing itself. */
export function Feed({ organization, kind, ids }: { organization: string; kind: SparkKind; ids: string }) {
	const transport = useTransport();
	const { figure, of, window, whole, lines } = kinds[kind];
	const [wanted] = useDebouncedValue(ids, 250);
	const { data } = useQuery({
		queryKey: ["sparklines", organization, kind, wanted],
		enabled: wanted !== "",
		refetchInterval: again,
		gcTime: 0,
		structuralSharing: false,
		queryFn: async ({ signal }) => {
			const all = wanted.split(" ");
			const calls = Array.from({ length: Math.ceil(all.length / most) }, (_, call) => {
				const request = {
					organizationId: organization,
					[of]: all.slice(call * most, (call + 1) * most),
					figure,
					window: { seconds: BigInt(window), nanos: 0 },
				};
				return callUnaryMethod(transport, MetricService.method.sparklines, request, { signal });
			});
			const now = Date.now() / 1000;
			const courses = new Map((await Promise.all(calls)).flatMap(({ sparklines }) => sparklines.map(({ id, points }) => [id, points] as const)));
			return all.map((id) => [id, sparkOf(courses.get(id) ?? [], now, window, whole)] as const);
		},
	});
	useEffect(() => {
		if (!data) return;
		const next = new Map(lines.get());
		for (const [id, line] of data) {
			if (line) next.set(id, line);
			else next.delete(id);
		}
		lines.set(next);
	}, [data, lines]);
	return null;
}

/** The recent course of a figure, and what it is now. */
export const SparkOf = memo(function SparkOf({ kind, id }: { kind: SparkKind; id: string }) {
	const { t, i18n } = useTranslation();
	const { lines, unit, times } = kinds[kind];
	const line = lines.usePart((all) => all.get(id));
	if (!line) return <span title={t("metric.spark.none")}>–</span>;
	const words = (value: number) => inWords(value * times, unit, i18n.language);
	return (
		<span className={classes.spark} title={t("metric.spark.text", { last: words(line.last), most: words(line.most) })}>
			<svg viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true" focusable="false">
				<path d={line.path} />
			</svg>
			<span>{words(line.last)}</span>
		</span>
	);
});
