// Which graphs there are of servers and of sites, and what is asked for each. Hosts report once a minute.
import type { Unit } from "./unit.js";

export type Color = "line-1" | "line-2" | "line-3" | "line-4" | "good" | "busy" | "warn" | "bad" | "idle";

export interface Graph<Key extends string = string> {
	key: Key;
	unit: Unit;
	/** The lines that have a name of their own in the catalog, with their colors; others are named by the host. */
	lines: Readonly<Record<string, Color>>;
	/** The whole of it, where it is known: the scale goes that far at least. */
	whole?: number;
	/** PromQL, whose series have the label line. */
	query(of: string, step: number): string;
}

const named = (line: string, query: string) => `label_replace(${query}, "line", "${line}", "", "")`;
const by = (label: string, query: string) => `label_replace(${query}, "line", "$1", "${label}", "(.*)")`;
/** One report may be lost before there is a gap. */
const rate = (series: string, step: number) => `rate(${series}[${Math.max(step, 180)}s])`;
const mean = (series: string, step: number) => `avg_over_time(${series}[${Math.max(step, 120)}s])`;

const disks = 'fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660"';
const wires = 'device!~"lo|veth.*|docker.*|br-.*|virbr.*|ifb.*"';
const drives = 'device!~"dm-.*|md.*|sr.*"';

export const serverGraphs = [
	{
		key: "cpu",
		unit: "ratio",
		lines: { used: "line-1", iowait: "line-2", steal: "line-3" },
		whole: 1,
		query: (id, step) => {
			// Parts of the time that was counted: the rates of a span's first minutes are too small, but all alike.
			const spent = (modes: string) => rate(`node_cpu_seconds_total{${modes}server="${id}",site=""}`, step);
			const all = `sum(${spent("")})`;
			return [
				named("used", `1 - sum(${spent('mode="idle",')}) / ${all}`),
				by("mode", `sum by (mode) (${spent('mode=~"iowait|steal",')}) / on() group_left() ${all}`),
			].join(" or ");
		},
	},
	{
		key: "memory",
		unit: "bytes",
		lines: { used: "line-1", swap: "line-2", all: "idle" },
		query: (id, step) => {
			const of = (name: string) => `sum(${mean(`node_memory_${name}_bytes{server="${id}",site=""}`, step)})`;
			return [
				named("used", `${of("MemTotal")} - ${of("MemAvailable")}`),
				named("swap", `${of("SwapTotal")} - ${of("SwapFree")}`),
				named("all", of("MemTotal")),
			].join(" or ");
		},
	},
	{
		key: "load",
		unit: "number",
		lines: { one: "line-1", five: "line-2", fifteen: "line-3", cores: "idle" },
		query: (id, step) => {
			const of = (minutes: number) => `avg(${mean(`node_load${minutes}{server="${id}",site=""}`, step)})`;
			return [
				named("one", of(1)),
				named("five", of(5)),
				named("fifteen", of(15)),
				named("cores", `count(${mean(`node_cpu_seconds_total{mode="idle",server="${id}",site=""}`, step)})`),
			].join(" or ");
		},
	},
	{
		key: "disk",
		unit: "ratio",
		lines: {},
		whole: 1,
		query: (id, step) => {
			const of = (what: string) => mean(`node_filesystem_${what}_bytes{${disks},server="${id}",site=""}`, step);
			return by("mountpoint", `max by (mountpoint) (1 - ${of("avail")} / ${of("size")})`);
		},
	},
	{
		key: "network",
		unit: "bytesPerSecond",
		lines: { in: "line-1", out: "line-2" },
		query: (id, step) => {
			const of = (way: string) => `sum(${rate(`node_network_${way}_bytes_total{${wires},server="${id}",site=""}`, step)})`;
			return [named("in", of("receive")), named("out", of("transmit"))].join(" or ");
		},
	},
	{
		key: "drives",
		unit: "bytesPerSecond",
		lines: { read: "line-1", written: "line-2" },
		query: (id, step) => {
			const of = (way: string) => `sum(${rate(`node_disk_${way}_bytes_total{${drives},server="${id}",site=""}`, step)})`;
			return [named("read", of("read")), named("written", of("written"))].join(" or ");
		},
	},
] as const satisfies readonly Graph[];

export const siteGraphs = [
	{
		key: "requests",
		unit: "perMinute",
		lines: { "2xx": "good", "3xx": "busy", "4xx": "warn", "5xx": "bad", "1xx": "idle" },
		query: (id, step) => by("status", `60 * sum by (status) (${rate(`chom_site_requests_total{site="${id}"}`, step)})`),
	},
	{
		key: "errors",
		unit: "ratio",
		lines: { "4xx": "warn", "5xx": "bad" },
		query: (id, step) => {
			const of = (status: string) => `sum(${rate(`chom_site_requests_total{${status}site="${id}"}`, step)})`;
			return ["4xx", "5xx"].map((status) => named(status, `${of(`status="${status}",`)} / ${of("")}`)).join(" or ");
		},
	},
	{
		key: "time",
		unit: "seconds",
		lines: { half: "line-1", most: "line-2" },
		query: (id, step) => {
			const of = (part: number) => `histogram_quantile(${part}, sum by (le) (${rate(`chom_site_request_seconds_bucket{site="${id}"}`, step)}))`;
			return [named("half", of(0.5)), named("most", of(0.95))].join(" or ");
		},
	},
	{
		key: "sent",
		unit: "bytesPerSecond",
		lines: { sent: "line-1" },
		query: (id, step) => named("sent", `sum(${rate(`chom_site_sent_bytes_total{site="${id}"}`, step)})`),
	},
	{
		key: "siteCpu",
		unit: "ratio",
		lines: { used: "line-1" },
		query: (id, step) => named("used", `sum(${rate(`chom_site_cpu_seconds_total{site="${id}"}`, step)})`),
	},
	{
		key: "siteMemory",
		unit: "bytes",
		lines: { used: "line-1" },
		query: (id, step) => named("used", `sum(${mean(`chom_site_memory_bytes{site="${id}"}`, step)})`),
	},
	{
		// Measured once an hour, and told in each report: there is a gap where there was no report.
		key: "siteDisk",
		unit: "bytes",
		lines: { files: "line-1", database: "line-2" },
		query: (id, step) => {
			const of = (what: string) => `sum(${mean(`chom_site_${what}_bytes{site="${id}"}`, step)})`;
			return [named("files", of("disk")), named("database", of("database"))].join(" or ");
		},
	},
] as const satisfies readonly Graph[];

export type GraphKey = (typeof serverGraphs)[number]["key"] | (typeof siteGraphs)[number]["key"];

const others: readonly Color[] = ["line-1", "line-2", "line-3", "line-4"];
const dashes: readonly (readonly number[])[] = [[], [7, 3], [2, 3], [9, 3, 2, 3]];

/** How the line at a place looks: no two of a graph differ in their color alone. */
export function lookOf(graph: Graph, name: string, place: number): { color: Color; dash: readonly number[] } {
	return { color: graph.lines[name] ?? others[place % others.length] ?? "line-1", dash: dashes[place % dashes.length] ?? [] };
}
