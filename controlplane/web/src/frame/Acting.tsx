import { useMutation } from "@connectrpc/connect-query";
import { Box, Button, Center, Stack, Text, Title } from "@mantine/core";
import { useDocumentTitle } from "@mantine/hooks";
import { useEffect } from "react";
import { useTranslation } from "react-i18next";
import { type Acting as As, acting } from "../api.js";
import { TokenService } from "../gen/chom/token/v1/token_service_pb.js";
import { useNow } from "../ui/clock.js";
import { relative } from "../ui/format.js";
import { Failure } from "../ui/parts.js";
import classes from "./Frame.module.css";

/** Says over each page that its reader acts as somebody else. */
export function Acting() {
	const as = acting.use();
	return as ? <Banner as={as} /> : null;
}

/** In the place of all pages, once it has ended by itself or from elsewhere: what they saw is not the operator's to see. */
export function ActingOver({ as }: { as: As }) {
	const { t } = useTranslation();
	useDocumentTitle(`${t("acting.over", { email: as.email })} · CHOM`);
	return (
		<Center component="main" mih="100vh" p="md">
			<Stack align="center" gap="sm" role="alert">
				<Title order={1} size="h2" ta="center">
					{t("acting.over", { email: as.email })}
				</Title>
				<Text c="dimmed" maw={480} ta="center">
					{as.until <= Date.now() && t("acting.overHour")} {t("acting.overText")}
				</Text>
				{/* The page is loaded anew: nothing that was seen as somebody else stays in it. */}
				<Button onClick={() => location.assign(`/o/${as.organizationId}/team`)}>{t("acting.back")}</Button>
			</Stack>
		</Center>
	);
}

function Banner({ as }: { as: As }) {
	const { t, i18n } = useTranslation();
	const now = useNow();
	// The page is loaded anew: nothing that was seen as somebody else stays in it.
	const end = useMutation(TokenService.method.endImpersonation, {
		onSettled: () => {
			acting.set(undefined);
			location.assign(`/o/${as.organizationId}/team`);
		},
	});
	useEffect(() => {
		// Who leaves the page ends it: nobody could go on with it.
		const leave = () => {
			const headers = { "Content-Type": "application/json" };
			void fetch("/chom.token.v1.TokenService/EndImpersonation", { method: "POST", keepalive: true, headers, body: JSON.stringify({ tokenId: as.tokenId }) });
		};
		addEventListener("pagehide", leave);
		return () => removeEventListener("pagehide", leave);
	}, [as.tokenId]);
	return (
		<Box component="section" className={classes.acting} aria-label={t("acting.title")}>
			<div>
				<Text fw={700}>{t("acting.banner", { email: as.email, organization: as.organization })}</Text>
				<Text size="sm">{t("acting.recorded", { when: relative(as.until, now, i18n.language) })}</Text>
			</div>
			<Button variant="default" loading={end.isPending} onClick={() => end.mutate({ tokenId: as.tokenId })}>
				{t("acting.end")}
			</Button>
			<Failure error={end.error} />
		</Box>
	);
}
