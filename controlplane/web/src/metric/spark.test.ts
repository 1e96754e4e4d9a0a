import { create } from "@bufbuild/protobuf";
import { expect, test } from "vitest";
import { PointSchema } from "../gen/chom/metric/v1/metric_service_pb.js";
import { sparkOf } from "./spark.js";

const now = 10_000;
const course = (...points: [number, number][]) => points.map(([ago, value]) => create(PointSchema, { time: { seconds: BigInt(now - ago) }, value }));

test("a course goes from left to right, and up to its most", () =>
	expect(sparkOf(course([120, 0], [60, 4], [0, 2]), now, 3_600)).toEqual({ path: "M96.7 22.5h.01L98.3 1.5L100.0 12.0", last: 2, most: 4 }));

test("where nothing was measured the line breaks", () => expect(sparkOf(course([3_000, 1], [120, 1], [60, 1]), now, 3_600)?.path.match(/M/g)).toHaveLength(2));

test("what has a whole is drawn against it", () => expect(sparkOf(course([0, 0.5]), now, 3_600, 1)?.path).toBe("M100.0 12.0h.01"));

test("only zeros are a line on the ground", () => expect(sparkOf(course([60, 0], [0, 0]), now, 3_600)?.path).toBe("M98.3 22.5h.01L100.0 22.5"));

test("nothing measured is no line", () => {
	expect(sparkOf([], now, 3_600)).toBeUndefined();
	expect(sparkOf(course([0, Number.NaN]), now, 3_600)).toBeUndefined();
});
