import { Button, Chip, CopyButton, Group, Stack, Text, TextInput } from "@mantine/core";
import { memo, useCallback, useDeferredValue, useEffect, useLayoutEffect, useMemo, useRef, useState } from "react";
import { useTranslation } from "react-i18next";
import { LogSource, type Site } from "../gen/chom/site/v1/site_pb.js";
import { precise } from "../ui/format.js";
import { CheckIcon, CopyIcon, SearchIcon } from "../ui/icons.js";
import { Empty, Failure, Notice, Waiting } from "../ui/parts.js";
import classes from "./Logs.module.css";
import { filterLines, type Line, useLogs } from "./logs.js";

const sources = [LogSource.ACCESS, LogSource.ERROR, LogSource.PHP] as const;
const names = { [LogSource.ACCESS]: "access", [LogSource.ERROR]: "error", [LogSource.PHP]: "php" } as const;
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** What a site logs, as it is written: each line is there within a second. */
export function Logs({ site }: { site: Site }) {
	const { t } = useTranslation();
	const { lines, live, error } = useLogs(site.organizationId, site.id);
	const [chosen, setChosen] = useState<string[]>(sources.map(String));
	const [text, setText] = useState("");
	const [held, setHeld] = useState<readonly Line[]>(); // while it is paused
	const wanted = useDeferredValue(text);
	const shown = useMemo(() => filterLines(held ?? lines, new Set(chosen.map(Number)), wanted), [held, lines, chosen, wanted]);
	const newer = held ? lines.length - lines.findLastIndex(({ number }) => number <= (held.at(-1)?.number ?? -1)) - 1 : 0;
	if (error) return <Failure error={error} />;
	return (
		<Stack gap="md">
			{live === "away" && (
				<Notice tone="warn" title={t("logs.away")}>
					<Text size="sm">{t("logs.awayText")}</Text>
				</Notice>
			)}
			{live === "full" && (
				<Notice tone="warn" title={t("logs.full")}>
					<Text size="sm">{t("logs.fullText")}</Text>
				</Notice>
			)}
			<Group gap="sm" role="search">
				<Chip.Group multiple value={chosen} onChange={setChosen}>
					<Group gap={6} role="group" aria-label={t("logs.which")}>
						{sources.map((source) => (
							<Chip key={source} value={String(source)} size="sm" variant="outline">
								{t(`logs.source.${names[source]}`)}
							</Chip>
						))}
					</Group>
				</Chip.Group>
				<TextInput
					aria-label={t("logs.filter")}
					placeholder={t("logs.filter")}
					leftSection={<SearchIcon size={16} />}
					value={text}
					onChange={(event) => setText(event.currentTarget.value)}
					type="search"
					flex="1 1 12rem"
				/>
				<Button variant="default" onClick={() => setHeld(held ? undefined : lines)}>
					{held ? t("logs.resume") : t("logs.pause")}
				</Button>
				<CopyButton value={shown.map((line) => line.text).join("\n")} timeout={2000}>
					{({ copied, copy }) => (
						<Button variant="default" onClick={copy} disabled={shown.length === 0} leftSection={copied ? <CheckIcon size={14} /> : <CopyIcon size={14} />}>
							{copied ? t("copy.copied") : t("copy.copy")}
						</Button>
					)}
				</CopyButton>
			</Group>
			<Text size="sm" c="dimmed" role="status">
				{live === "opening"
					? t("logs.opening")
					: live === "lost"
						? t("logs.lost")
						: held
							? t("logs.paused", { count: newer })
							: live === "live" && t("logs.live")}
			</Text>
			{shown.length > 0 ? (
				<Lines lines={shown} quiet={held !== undefined} />
			) : live === "opening" ? (
				<Waiting rows={8} height={20} />
			) : lines.length > 0 ? (
				<Empty title={t("logs.noMatch.title")}>{t("logs.noMatch.text")}</Empty>
			) : (
				live === "live" && <Empty title={t("logs.none.title")}>{t("logs.none.text")}</Empty>
			)}
		</Stack>
	);
}

/** The lines, newest at the bottom. It stays at its end, unless the reader has scrolled up. */
function Lines({ lines, quiet }: { lines: readonly Line[]; quiet: boolean }) {
	const { t } = useTranslation();
	const box = useRef<HTMLDivElement>(null);
	const top = useRef(0);
	const [atEnd, setAtEnd] = useState(true);
	const toEnd = useCallback(() => {
		if (box.current) box.current.scrollTop = box.current.scrollHeight;
	}, []);
	// biome-ignore lint/correctness/useExhaustiveDependencies: each new line moves the end
	useLayoutEffect(() => {
		if (atEnd) toEnd();
	}, [lines, atEnd]);
	useEffect(() => {
		if (!atEnd || !box.current) return;
		const resized = new ResizeObserver(toEnd);
		resized.observe(box.current);
		return () => resized.disconnect();
	}, [atEnd, toEnd]);
	return (
		<div className={classes.frame}>
			<div
				role="log"
				aria-live={quiet ? "off" : "polite"}
				ref={box}
				className={classes.log}
				aria-label={t("logs.title")}
				// biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, which the keyboard must be able to do
				tabIndex={0}
				onScroll={({ currentTarget: { scrollTop, scrollHeight, clientHeight } }) => {
					if (scrollHeight - scrollTop - clientHeight < 8) setAtEnd(true);
					else if (scrollTop < top.current) setAtEnd(false); // lines that come, or break anew, move nothing up
					top.current = scrollTop;
				}}
			>
				{lines.map((line) => (
					<Row key={line.number} line={line} />
				))}
			</div>
			{!atEnd && (
				<Button className={classes.newest} size="compact-sm" onClick={() => setAtEnd(true)}>
					{t("logs.newest")}
				</Button>
			)}
		</div>
	);
}

const Row = memo(function Row({ line }: { line: Line }) {
	const { t, i18n } = useTranslation();
	return (
		<>
			{line.leftOut > 0 && <div className={classes.leftOut}>{t("logs.leftOut", { count: line.leftOut })}</div>}
			<div className={classes.line} data-source={names[line.source as keyof typeof names]}>
				<time className={classes.at} dateTime={new Date(line.at).toISOString()} title={precise(line.at, i18n.language, zone)}>
					{clock(line.at, i18n.language)}
				</time>
				<span className={classes.source}>{t(`logs.source.${names[line.source as keyof typeof names]}`)}</span>
				<span className={classes.text}>{line.text}</span>
			</div>
		</>
	);
});

const clocks = new Map<string, Intl.DateTimeFormat>();

/** The time of day in the reader's zone. */
function clock(at: number, language: string): string {
	const form = clocks.get(language) ?? new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
	clocks.set(language, form);
	return form.format(at);
}
