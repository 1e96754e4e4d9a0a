import { Box, Text } from "@mantine/core";
import { useTranslation } from "react-i18next";
import { connection } from "../api.js";
import { useNow } from "../ui/clock.js";
import { relative } from "../ui/format.js";
import classes from "./Frame.module.css";

/** Says that what is shown is old, while nobody answers. */
export function Connection() {
	const { t, i18n } = useTranslation();
	const { heardAt, lostSince } = connection.use();
	const now = useNow();
	return (
		<Box role="status" aria-live="polite">
			{lostSince !== undefined && (
				<Box className={classes.lost}>
					<Text size="sm" fw={600}>
						{t("connection.lost")}
					</Text>
					<Text size="sm">{t("connection.text", { when: relative(heardAt, Math.max(now, heardAt), i18n.language) })}</Text>
				</Box>
			)}
		</Box>
	);
}
