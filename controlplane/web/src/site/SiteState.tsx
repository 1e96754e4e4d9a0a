import { useTranslation } from "react-i18next";
import { NameState, State } from "../gen/chom/site/v1/site_pb.js";
import { Dot, type Tone } from "../ui/parts.js";

const states = {
	[State.UNSPECIFIED]: ["idle", "unknown"],
	[State.CREATING]: ["busy", "creating"],
	[State.ACTIVE]: ["good", "active"],
	[State.UPDATING]: ["busy", "updating"],
	[State.SUSPENDED]: ["idle", "suspended"],
	[State.TRASHED]: ["idle", "trashed"],
	[State.DELETING]: ["busy", "deleting"],
	[State.FAILED]: ["bad", "failed"],
} as const satisfies Record<State, readonly [Tone, string]>;

export const siteStateKey = (state: State) => `site.state.${(states[state] ?? states[State.UNSPECIFIED])[1]}` as const;

/** A site's life. */
export function SiteState({ of }: { of: State }) {
	const { t } = useTranslation();
	return <Dot tone={(states[of] ?? states[State.UNSPECIFIED])[0]}>{t(siteStateKey(of))}</Dot>;
}

const names = {
	[NameState.UNSPECIFIED]: ["idle", "unknown"],
	[NameState.UNCLAIMED]: ["warn", "unclaimed"],
	[NameState.PENDING]: ["warn", "pending"],
	[NameState.ISSUING]: ["busy", "issuing"],
	[NameState.SECURE]: ["good", "secure"],
	[NameState.EXPIRING]: ["warn", "expiring"],
	[NameState.EXPIRED]: ["bad", "expired"],
} as const satisfies Record<NameState, readonly [Tone, string]>;

/** How far a name is. */
export function NameStateOf({ of }: { of: NameState }) {
	const { t } = useTranslation();
	const [tone, key] = names[of] ?? names[NameState.UNSPECIFIED];
	return <Dot tone={tone}>{t(`name.state.${key}`)}</Dot>;
}
