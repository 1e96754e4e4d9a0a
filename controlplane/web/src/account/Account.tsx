import { Stack, Text } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { Card, Dot, Facts, Link, Page } from "../ui/parts.js";
import { useCaller } from "./caller.js";
import { SignOut } from "./Login.js";

/** The person's own page. */
export function Account() {
	const { t } = useTranslation();
	const { data: caller } = useCaller();
	const guarded = (caller?.factors?.totp ?? false) || (caller?.factors?.passkeys ?? 0) > 0;
	return (
		<Page title={t("account.title")} aside={<SignOut />}>
			<Card>
				<Facts
					of={[
						[t("account.email"), caller?.email ?? ""],
						[
							t("account.factors"),
							<Dot key="factors" tone={guarded ? "good" : "warn"}>
								{guarded ? t("account.guarded") : t("account.unguarded")}
							</Dot>,
						],
					]}
				/>
				<Stack gap={4} mt="md">
					<Text>
						<Link to="/account/second-factors">{t("factors.title")}</Link>
					</Text>
					<Text>
						<Link to="/account/sessions">{t("sessions.title")}</Link>
					</Text>
					<Text>
						<Link to="/account/tokens">{t("tokens.title")}</Link>
					</Text>
					<Text>
						<Link to="/account/events">{t("audit.mine")}</Link>
					</Text>
				</Stack>
			</Card>
		</Page>
	);
}
