import { useMutation } from "@connectrpc/connect-query";
import { Stack, TagsInput, Text } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { type Site, State } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { Confirmed, Form, Permitted } from "../ui/Act.js";
import { Card } from "../ui/parts.js";
import { tagRule } from "../ui/rules.js";
import { Time } from "../ui/Time.js";
import { SiteHttps, SiteLimits, SitePolicy } from "./Serving.js";

/** What can be changed of a site, and how it goes away. */
export function Settings({ site }: { site: Site }) {
	const { t } = useTranslation();
	return (
		<Stack gap="md">
			<Permitted method={SiteService.method.updateSite}>
				<Tags key={`tags ${site.etag}`} site={site} />
				<SiteLimits key={`limits ${site.etag}`} site={site} />
				<SiteHttps key={`https ${site.etag}`} site={site} />
				<SitePolicy key={`policy ${site.etag}`} site={site} />
			</Permitted>
			<Permitted method={SiteService.method.deleteSite}>
				<Card title={t("danger.title")} tone="danger">
					{site.state === State.TRASHED || site.state === State.DELETING ? (
						<Text size="sm">
							{t("danger.trashed")} <Time of={site.purgeTime} />
						</Text>
					) : (
						<Stack gap="sm" align="flex-start">
							<Text size="sm" maw={620}>
								{t("danger.text")}
							</Text>
							<Confirmed
								method={SiteService.method.deleteSite}
								request={{ organizationId: site.organizationId, siteId: site.id }}
								title={t("danger.deleteTitle", { name: site.name })}
								explain={t("danger.deleteText")}
								typed={site.name}
								confirm={t("danger.delete")}
								color="red"
								variant="outline"
							>
								{t("danger.delete")}
							</Confirmed>
						</Stack>
					)}
				</Card>
			</Permitted>
		</Stack>
	);
}

function Tags({ site }: { site: Site }) {
	const { t } = useTranslation();
	const [tags, setTags] = useState<string[]>(site.tags);
	const save = useMutation(SiteService.method.updateSite);
	return (
		<Card title={t("site.tags")}>
			<Form
				label={t("save")}
				pending={save.isPending}
				error={save.error}
				disabled={tags.some((tag) => !tagRule.test(tag)) || tags.join(" ") === site.tags.join(" ")}
				onSend={() => save.mutate({ organizationId: site.organizationId, siteId: site.id, updateMask: { paths: ["tags"] }, tags, etag: site.etag })}
			>
				<TagsInput
					label={t("site.tags")}
					description={t("createSite.tagsText")}
					value={tags}
					onChange={setTags}
					maxTags={20}
					error={tags.some((tag) => !tagRule.test(tag)) ? t("rule.tag") : undefined}
					maw={520}
				/>
			</Form>
		</Card>
	);
}
