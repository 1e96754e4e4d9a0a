import { Outlet } from "@tanstack/react-router";
import { useTranslation } from "react-i18next";
import { useCaller } from "../account/caller.js";
import { Empty, Page } from "../ui/parts.js";

/** What is around the pages of those who run the platform. */
export function Area() {
	const { t } = useTranslation();
	const { data: caller } = useCaller();
	if (caller?.operator) return <Outlet />;
	return (
		<Page title={t("operator.title")}>
			<Empty title={t("operator.only")}>{t("operator.onlyText")}</Empty>
		</Page>
	);
}
