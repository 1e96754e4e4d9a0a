import { useQuery } from "@connectrpc/connect-query";
import { MetricService, type QueryResponse } from "../gen/chom/metric/v1/metric_service_pb.js";
import type { Site } from "../gen/chom/site/v1/site_pb.js";

/** What a site takes of its server's disk, in bytes. */
export interface Size {
	files: number;
	/** None of a site without one. */
	database: number | undefined;
	/** When that was measured, in seconds. */
	at: number;
}

const series = { files: "chom_site_disk_bytes", database: "chom_site_database_bytes", at: "chom_site_size_timestamp_seconds" } as const;

/** The last moment that has a date, in seconds. */
const lastMoment = 253_402_300_799;

/** What an answer has of a size; undefined where it was not measured, or is none: a host may say anything. */
export function sizeOf({ result }: QueryResponse): Size | undefined {
	const samples = result.case === "vector" ? result.value.samples : [];
	const value = (name: string) => {
		const value = samples.find(({ labels }) => labels.__name__ === name)?.point?.value;
		return value !== undefined && Number.isFinite(value) && value >= 0 ? value : undefined;
	};
	const [files, database, at] = [value(series.files), value(series.database), value(series.at)];
	return files === undefined || at === undefined || at > lastMoment ? undefined : { files, database, at };
}

/** What was last measured of a site's size, be it some hours ago; undefined until that is known. */
export function useSize({ organizationId, id, serverId }: Site): { size: Size | undefined; known: boolean } {
	const names = Object.values(series).join("|");
	const query = `last_over_time({__name__=~"${names}",site="${id}",server="${serverId}"}[1d])`;
	const { data } = useQuery(MetricService.method.query, { organizationId, query }, { refetchInterval: 30_000 }); // hosts report once a minute
	return { size: data && sizeOf(data), known: data !== undefined };
}
