// Parts without a meaning of their own, which all pages are made of.
import { Alert, Anchor, Box, Button, type ButtonProps, Group, Paper, Skeleton, Stack, Text, Title, VisuallyHidden } from "@mantine/core";
import { useDocumentTitle } from "@mantine/hooks";
import { type LinkProps, Link as RouterLink } from "@tanstack/react-router";
import { type ReactNode, useEffect, useState } from "react";
import { useTranslation } from "react-i18next";
import { copy } from "./copy.js";
import { AlertIcon, CheckIcon, CopyIcon } from "./icons.js";
import classes from "./parts.module.css";
import { words } from "./words.js";

/** The heading of a page, with what can be done there. */
export function Page({ title, aside, above, children }: { title: string; aside?: ReactNode; above?: ReactNode; children: ReactNode }) {
	useDocumentTitle(`${title} · CHOM`);
	return (
		<Stack gap="lg">
			<div>
				{above && (
					<Text size="sm" mb={4}>
						{above}
					</Text>
				)}
				<Group justify="space-between" align="center" gap="sm">
					<Title order={1} size="h2" className={classes.title}>
						{title}
					</Title>
					{aside && <Group gap="xs">{aside}</Group>}
				</Group>
			</div>
			{children}
		</Stack>
	);
}

export function Card({ title, aside, children, tone }: { title?: string; aside?: ReactNode; children: ReactNode; tone?: "danger" }) {
	return (
		<Paper component="section" withBorder radius="md" p="md" className={tone === "danger" ? classes.danger : undefined} aria-label={title}>
			{(title || aside) && (
				<Group justify="space-between" mb="sm" gap="xs">
					{title && (
						<Title order={2} size="h4">
							{title}
						</Title>
					)}
					{aside}
				</Group>
			)}
			{children}
		</Paper>
	);
}

/** A link within the dashboard. */
export function Link({ children, ...to }: LinkProps & { children: ReactNode }) {
	return (
		<Anchor component={RouterLink} {...(to as { to: string })} inherit>
			{children}
		</Anchor>
	);
}

/** A link within the dashboard that looks like a button. */
export function LinkButton({ children, to, params, search, ...look }: ButtonProps & { children: ReactNode; to: string; params?: unknown; search?: unknown }) {
	return (
		<Button component={RouterLink} {...({ to, params, search } as object)} {...look}>
			{children}
		</Button>
	);
}

export type Tone = "good" | "busy" | "warn" | "bad" | "idle";

/** A state: its tone is in a dot, and never in the color alone. */
export function Dot({ tone, children }: { tone: Tone; children: ReactNode }) {
	return (
		<span className={classes.state}>
			<span className={classes.dot} data-tone={tone} aria-hidden />
			{children}
		</span>
	);
}

/** What went wrong, in words, and what to do. It stays until that is done. */
export function Failure({ error, retry, title }: { error: unknown; retry?: () => void; title?: string }) {
	const { t } = useTranslation();
	if (!error) return null;
	const { what, next } = words(error, t);
	return (
		<Alert role="alert" color="red" variant="outline" icon={<AlertIcon />} title={title ?? t("failure.title")} className={classes.alert}>
			<Text size="sm">{what}</Text>
			{next && (
				<Text size="sm" c="dimmed">
					{next}
				</Text>
			)}
			{retry && (
				<Button size="compact-sm" variant="default" mt="xs" onClick={retry}>
					{t("failure.again")}
				</Button>
			)}
		</Alert>
	);
}

/** Something to know, which is no failure of this page. */
export function Notice({ tone, title, children }: { tone: "warn" | "info"; title: string; children?: ReactNode }) {
	return (
		<Alert color={tone === "warn" ? "orange" : "cyan"} variant="outline" icon={<AlertIcon />} title={title} className={classes.alert}>
			{children}
		</Alert>
	);
}

/** The shape of what is on its way. */
export function Waiting({ rows = 3, height = 44 }: { rows?: number; height?: number }) {
	const { t } = useTranslation();
	return (
		<Stack gap="xs" aria-busy="true">
			<VisuallyHidden role="status">{t("waiting")}</VisuallyHidden>
			{Array.from({ length: rows }, (_, row) => (
				<Skeleton key={row} height={height} radius="md" />
			))}
		</Stack>
	);
}

/** A place where nothing is yet: what it is for, and how something comes there. */
export function Empty({ title, children, action }: { title: string; children: ReactNode; action?: ReactNode }) {
	return (
		<Paper withBorder radius="md" p="xl" className={classes.empty}>
			<Title order={2} size="h4" mb={4}>
				{title}
			</Title>
			<Text c="dimmed" maw={560} mx="auto">
				{children}
			</Text>
			{action && <Box mt="md">{action}</Box>}
		</Paper>
	);
}

/** Text to take along; bare, where it stands above already. */
export function Copy({ text, what, block = false, bare = false }: { text: string; what: string; block?: boolean; bare?: boolean }) {
	const { t } = useTranslation();
	const [copied, setCopied] = useState(false);
	useEffect(() => {
		if (!copied) return;
		const over = setTimeout(() => setCopied(false), 2000);
		return () => clearTimeout(over);
	}, [copied]);
	return (
		<span className={block ? classes.copyBlock : classes.copy}>
			{!bare && <code className={classes.code}>{text}</code>}
			<Button
				size="compact-xs"
				variant="default"
				onClick={() => void copy(text).then(setCopied)}
				leftSection={copied ? <CheckIcon size={14} /> : <CopyIcon size={14} />}
				aria-label={copied ? t("copy.done", { what }) : t("copy.do", { what })}
			>
				{copied ? t("copy.copied") : t("copy.copy")}
			</Button>
		</span>
	);
}

/** Terms and what they are. */
export function Facts({ of }: { of: (readonly [string, ReactNode] | false | undefined)[] }) {
	return (
		<dl className={classes.facts}>
			{of.map(
				(fact) =>
					fact && (
						<div key={fact[0]}>
							<dt>{fact[0]}</dt>
							<dd>{fact[1]}</dd>
						</div>
					),
			)}
		</dl>
	);
}
