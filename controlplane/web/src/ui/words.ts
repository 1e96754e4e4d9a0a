import { Code, ConnectError } from "@connectrpc/connect";
import type { TFunction } from "i18next";

/** What went wrong, in words, and what the reader can do. */
export function words(error: unknown, t: TFunction): { what: string; next: string } {
	if (!(error instanceof ConnectError)) return { what: error instanceof Error ? error.message : String(error), next: "" };
	const what = sentence(error.rawMessage);
	switch (error.code) {
		case Code.Unavailable:
		case Code.Unknown:
		case Code.DeadlineExceeded:
			return { what: error.cause instanceof TypeError ? t("failure.away") : what, next: t("failure.waits") };
		case Code.PermissionDenied:
			return { what, next: t("failure.denied") };
		case Code.NotFound:
			return { what, next: t("failure.gone") };
		case Code.Aborted:
			return { what, next: t("failure.changed") };
		case Code.ResourceExhausted:
			return { what, next: t("failure.limited") };
		case Code.Internal:
			return { what, next: t("failure.internal") };
		default:
			return { what, next: "" };
	}
}

/** What the control plane says is wrong, as a sentence; a name that it begins with stays as it is. */
export function sentence(text: string): string {
	const begun = text.replace(/^[a-z](?=[a-z]*[\s,:])/, (letter) => letter.toUpperCase());
	return begun === "" || /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
