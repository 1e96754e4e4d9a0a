import type { Timestamp } from "@bufbuild/protobuf/wkt";
import { useTranslation } from "react-i18next";
import { useNow } from "./clock.js";
import { milliseconds, precise, relative } from "./format.js";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;

/** A moment as people say it; the exact one, in their zone and in UTC, on hover. */
export function Time({ of, none = "–" }: { of: Timestamp | undefined; none?: string }) {
	const { i18n } = useTranslation();
	const now = useNow();
	if (!of) return none;
	const at = milliseconds(of);
	return (
		<time dateTime={new Date(at).toISOString()} title={precise(at, i18n.language, zone)}>
			{relative(at, now, i18n.language)}
		</time>
	);
}
