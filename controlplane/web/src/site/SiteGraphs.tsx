import { useTranslation } from "react-i18next";
import type { Site } from "../gen/chom/site/v1/site_pb.js";
import { Graphs } from "../metric/Graphs.js";
import { siteGraphs } from "../metric/graphs.js";
import { useMarks } from "./Timeline.js";

/** How a site was asked for, what it answered and what it used, with what happened to it. */
export function SiteGraphs({ site }: { site: Site }) {
	const { t } = useTranslation();
	return <Graphs organization={site.organizationId} of={site.id} graphs={siteGraphs} first={t("metric.first.site")} marks={useMarks(site)} />;
}
