import "uplot/dist/uPlot.min.css";
import { useComputedColorScheme } from "@mantine/core";
import { useEffect, useRef } from "react";
import { useTranslation } from "react-i18next";
import UPlot from "uplot";
import type { Store } from "../ui/store.js";
import classes from "./Graphs.module.css";
import { type Graph, lookOf } from "./graphs.js";
import { alone, type Line } from "./series.js";
import { inWords } from "./unit.js";

/** Something that happened, at a moment in seconds. */
export interface Mark {
	at: number;
	bad: boolean;
	text: string;
}

const height = 190;
const tall = 26; // pixels of the axis below

/** The picture itself. What it shows is beside it in words, for whom it is none. */
export default function Plot({
	graph,
	label,
	moments,
	lines,
	marks,
	group,
	under,
	onZoom,
}: {
	graph: Graph;
	label: string;
	moments: readonly number[];
	lines: readonly Line[];
	marks: readonly Mark[];
	/** Graphs of one group share the crosshair, and the place in moments that it is at. */
	group: string;
	under: Store<number | undefined>;
	onZoom: (from: number, to: number) => void;
}) {
	const { i18n } = useTranslation();
	const place = useRef<HTMLDivElement>(null);
	const plot = useRef<UPlot>(undefined);
	const scheme = useComputedColorScheme();
	const now = useRef({ marks, onZoom, lines, moments });
	now.current = { marks, onZoom, lines, moments };
	const names = JSON.stringify(lines.map(({ name }) => name));
	const language = i18n.language;

	useEffect(() => {
		const box = place.current;
		if (!box) return;
		const ink = (name: string) => getComputedStyle(box).getPropertyValue(`--${name}`).trim();
		const axis = { stroke: () => ink("mantine-color-dimmed"), font: `12px ${getComputedStyle(box).fontFamily}`, ticks: { show: false } };
		const grid = { stroke: () => ink("chom-grid"), width: 1 };
		const made = new UPlot(
			{
				width: box.clientWidth,
				height,
				legend: { show: false },
				padding: [8, 8, 0, 0],
				cursor: {
					y: false,
					points: { size: 7 },
					drag: { x: true, y: false, setScale: false },
					sync: { key: group, filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
				},
				scales: {
					x: { time: true, range: () => [now.current.moments[0] ?? 0, now.current.moments.at(-1) ?? 1] },
					y: { range: (_, _least, most) => [0, Math.max(graph.whole ?? 0, (most || 0) * 1.08) || 1] },
				},
				axes: [
					{ ...axis, grid, size: tall, space: 64, values: (_, splits, __, ___, step) => splits.map((at) => tick(at, step, language)) },
					{
						...axis,
						grid,
						space: 34,
						size: (_, texts) => 14 + 6.6 * Math.max(3, ...(texts ?? []).map((text) => text.length)),
						values: (_, splits) => splits.map((value) => inWords(value, graph.unit, language)),
					},
				],
				series: [
					{},
					...(JSON.parse(names) as string[]).map((name, place): UPlot.Series => {
						const { color, dash } = lookOf(graph, name, place);
						return {
							stroke: () => ink(`chom-${color}`),
							fill: place === 0 ? () => `${ink(`chom-${color}`)}1f` : undefined,
							width: 1.6,
							dash: [...dash],
							spanGaps: false,
							points: { show: false, size: 5, filter: (_, series) => alone(now.current.lines[series - 1]?.values ?? []) },
						} as UPlot.Series;
					}),
				],
				hooks: {
					setCursor: [({ cursor }) => under.get() !== (cursor.idx ?? undefined) && under.set(cursor.idx ?? undefined)],
					setSelect: [
						(chart) => {
							const { left, width } = chart.select;
							if (width < 6) return;
							chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
							now.current.onZoom(chart.posToVal(left, "x"), chart.posToVal(left + width, "x"));
						},
					],
					draw: [(chart) => drawMarks(chart, now.current.marks, ink)],
				},
			},
			[[...now.current.moments], ...now.current.lines.map(({ values }) => values)],
			box,
		);
		plot.current = made;
		// A finger that goes to the side is a crosshair; up and down it scrolls the page.
		const touched = ({ touches: [touch] }: TouchEvent) => touch && made.setCursor({ left: touch.clientX - made.over.getBoundingClientRect().left, top: 0 });
		made.over.addEventListener("touchmove", touched, { passive: true });
		const watch = new ResizeObserver(() => made.setSize({ width: box.clientWidth, height }));
		watch.observe(box);
		return () => {
			watch.disconnect();
			made.destroy();
			plot.current = undefined;
		};
	}, [graph, names, group, under, language]);

	useEffect(() => plot.current?.setData([[...moments], ...lines.map(({ values }) => values)]), [moments, lines]);
	// biome-ignore lint/correctness/useExhaustiveDependencies: colors and marks are looked up when it is drawn
	useEffect(() => plot.current?.redraw(), [scheme, marks]);

	return <div ref={place} className={classes.plot} role="img" aria-label={label} />;
}

/** A moment on the axis: the day where one begins, or where moments are days. */
function tick(at: number, step: number, language: string): string {
	const moment = new Date(at * 1000);
	const midnight = moment.getHours() === 0 && moment.getMinutes() === 0;
	const form = step >= 86_400 || midnight ? ({ day: "numeric", month: "short" } as const) : ({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" } as const);
	return new Intl.DateTimeFormat(language, form).format(moment);
}

/** A line from top to bottom with a flag, for each thing that happened. */
function drawMarks({ ctx, bbox, valToPos }: UPlot, marks: readonly Mark[], ink: (name: string) => string) {
	ctx.save();
	ctx.lineWidth = devicePixelRatio;
	ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
	for (const { at, bad } of marks) {
		const x = Math.round(valToPos(at, "x", true));
		if (x < bbox.left || x > bbox.left + bbox.width) continue;
		const color = ink(bad ? "chom-bad" : "chom-idle");
		ctx.strokeStyle = ctx.fillStyle = color;
		ctx.beginPath();
		ctx.moveTo(x, bbox.top);
		ctx.lineTo(x, bbox.top + bbox.height);
		ctx.stroke();
		ctx.beginPath();
		ctx.moveTo(x, bbox.top);
		ctx.lineTo(x + 7 * devicePixelRatio, bbox.top + 3.5 * devicePixelRatio);
		ctx.lineTo(x, bbox.top + 7 * devicePixelRatio);
		ctx.fill();
	}
	ctx.restore();
}
