import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { QueryResponseSchema } from "../gen/chom/metric/v1/metric_service_pb.js";
import { sizeOf } from "./size.js";

const answer = (values: { [name: string]: number }) =>
	create(QueryResponseSchema, {
		result: { case: "vector", value: { samples: Object.entries(values).map(([name, value]) => ({ labels: { __name__: name }, point: { value } })) } },
	});

test("a size is what was measured, with its moment", () => {
	const files = { chom_site_disk_bytes: 123e6, chom_site_size_timestamp_seconds: 1_795_000_000 };
	expect(sizeOf(answer({ ...files, chom_site_database_bytes: 4.5e6 }))).toEqual({ files: 123e6, database: 4.5e6, at: 1_795_000_000 });
	expect(sizeOf(answer(files))).toEqual({ files: 123e6, database: undefined, at: 1_795_000_000 });
	expect(sizeOf(answer({ ...files, chom_site_database_bytes: 0 }))?.database).toBe(0);
});

test("what was not measured is no zero", () => {
	expect(sizeOf(answer({}))).toBeUndefined();
	expect(sizeOf(answer({ chom_site_disk_bytes: 5 }))).toBeUndefined();
	expect(sizeOf(create(QueryResponseSchema, {}))).toBeUndefined();
});

test("what a host made up is no size", () => {
	for (const wrong of [Number.POSITIVE_INFINITY, Number.NaN, -1]) {
		expect(sizeOf(answer({ chom_site_disk_bytes: wrong, chom_site_size_timestamp_seconds: 1 }))).toBeUndefined();
		expect(sizeOf(answer({ chom_site_disk_bytes: 1, chom_site_size_timestamp_seconds: wrong }))).toBeUndefined();
		expect(sizeOf(answer({ chom_site_disk_bytes: 1, chom_site_database_bytes: wrong, chom_site_size_timestamp_seconds: 1 }))?.database).toBeUndefined();
	}
	expect(sizeOf(answer({ chom_site_disk_bytes: 1, chom_site_size_timestamp_seconds: 1e20 }))).toBeUndefined(); // no calendar goes that far
});
