import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { useTranslation } from "react-i18next";
import { useNow } from "./clock.js";
import { milliseconds, moment, precise, relative } from "./format.js";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** A moment as people say it, or exact in their zone; on hover it is exact, in their zone and in UTC. */
export function Time({ of, none = "–", exact = false }: { of: Timestamp | undefined; none?: string; exact?: boolean }) {
	const { i18n } = useTranslation();
	const now = useNow();
	if (!of) return none;
	const at = milliseconds(of);
	return (
		<time dateTime={new Date(at).toISOString()} title={precise(at, i18n.language, zone)}>
			{exact ? moment(at, i18n.language, zone) : relative(at, now, i18n.language)}
		</time>
	);
}
