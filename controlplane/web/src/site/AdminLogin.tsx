import { useMutation } from "@connectrpc/connect-query";
import { Button, Stack, Text } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Site } from "../gen/chom/site/v1/site_pb.js";
import { SiteService } from "../gen/chom/site/v1/site_service_pb.js";
import { Dialog } from "../ui/Dialog.js";
import { Failure } from "../ui/parts.js";

/** Opens the site's administration without its password, once. */
export function AdminLogin({ site }: { site: Site }) {
	const { t } = useTranslation();
	const [url, setUrl] = useState("");
	const login = useMutation(SiteService.method.createSiteLogin, { onSuccess: (answer) => setUrl(answer.url) });
	return (
		<>
			<Button loading={login.isPending} onClick={() => login.mutate({ organizationId: site.organizationId, siteId: site.id })}>
				{t("site.admin")}
			</Button>
			<Dialog
				opened={url !== "" || login.error !== null}
				onClose={() => {
					setUrl("");
					login.reset();
				}}
				title={t("site.admin")}
			>
				<Stack>
					<Failure error={login.error} />
					{url !== "" && (
						<>
							<Text size="sm">{t("site.adminText")}</Text>
							<Button component="a" href={url} target="_blank" rel="noreferrer noopener" onClick={() => setUrl("")} data-autofocus>
								{t("site.adminOpen")}
							</Button>
						</>
					)}
				</Stack>
			</Dialog>
		</>
	);
}
