/** What a webhook can be told, as the control plane has it: by noun, and then by what happened. A test compares. */
export const events = [
	"backup.failed",
	"backup.overdue",
	"backup.quota",
	"backup.ready",
	"certificate.expiring",
	"drill.failed",
	"drill.passed",
	"member.added",
	"member.removed",
	"member.updated",
	"organization.closing",
	"organization.updated",
	"restore.done",
	"site.created",
	"site.deleted",
	"site.restored",
	"site.resumed",
	"site.suspended",
	"site.updated",
	"task.failed",
	"token.created",
	"token.revoked",
] as const;

export type Event = (typeof events)[number];

/** Where texts about an event are; a newer control plane may have events that this page does not know. */
export const eventKey = (event: string) => {
	const known = events.find((one) => one === event);
	return known && (`webhooks.event.${known.replace(".", "_") as Underscored<Event>}` as const);
};

type Underscored<T extends string> = T extends `${infer Noun}.${infer Verb}` ? `${Noun}_${Verb}` : never;

/** Whom a URL calls; its path may be a secret between the organization and the receiver. */
export function hostOf(url: string): string {
	return URL.canParse(url) ? new URL(url).hostname : url;
}
