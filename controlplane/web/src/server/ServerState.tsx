import { useTranslation } from "react-i18next";
import { type Server, State } from "../gen/chom/fleet/v1/server_pb.js";
import { Dot, type Tone } from "../ui/parts.js";

/** What is to be said of a server first. */
export function condition(server: Server): {
	tone: Tone;
	key: "pending" | "offline" | "preparing" | "ready" | "draining" | "quarantined" | "removed" | "findings";
} {
	switch (server.state) {
		case State.PENDING:
			return { tone: "busy", key: "pending" };
		case State.QUARANTINED:
			return { tone: "bad", key: "quarantined" };
		case State.REMOVED:
			return { tone: "idle", key: "removed" };
	}
	if (!server.online) return { tone: "bad", key: "offline" };
	if ((server.facts?.findings.length ?? 0) > 0) return { tone: "warn", key: "findings" };
	if (server.state === State.DRAINING) return { tone: "warn", key: "draining" };
	return server.facts?.prepared ? { tone: "good", key: "ready" } : { tone: "busy", key: "preparing" };
}

export function ServerState({ of }: { of: Server }) {
	const { t } = useTranslation();
	const { tone, key } = condition(of);
	return <Dot tone={tone}>{t(`server.state.${key}`)}</Dot>;
}
