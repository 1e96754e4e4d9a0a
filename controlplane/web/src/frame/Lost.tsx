import { Center, Stack, Text, Title } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { LinkButton } from "../ui/parts.js";

/** An address that leads nowhere. */
export function NoPage() {
	const { t } = useTranslation();
	return <Middle title={t("lost.title")} text={t("lost.text")} />;
}

/** A page of ours that failed. */
export function Crashed({ error }: { error: unknown }) {
	const { t } = useTranslation();
	return <Middle title={t("crashed.title")} text={t("crashed.text", { what: error instanceof Error ? error.message : String(error) })} />;
}

function Middle({ title, text }: { title: string; text: string }) {
	const { t } = useTranslation();
	return (
		<Center component="main" mih="70vh" p="md">
			<Stack align="center" gap="sm">
				<Title order={1} size="h2">
					{title}
				</Title>
				<Text c="dimmed" maw={480} ta="center">
					{text}
				</Text>
				<LinkButton to="/" variant="default">
					{t("lost.home")}
				</LinkButton>
			</Stack>
		</Center>
	);
}
