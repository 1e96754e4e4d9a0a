// Pictures, timelines and live lists: what simulated agents report is what the pages show.
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { Request } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Client, connect } from "./client.js";
import {
	Figure,
	type QueryRangeRequest,
	QueryRangeRequestSchema,
	QueryRangeResponseSchema,
	QueryResponseSchema,
	SparklinesRequestSchema,
} from "./gen/chom/metric/v1/metric_service_pb.js";
import { State } from "./gen/chom/site/v1/site_pb.js";
import { serverGraphs, siteGraphs } from "./metric/graphs.js";
import { windowOf } from "./metric/range.js";
import { inWords } from "./metric/unit.js";
import { platform } from "./server/queries.js";
import { type Swarm, startSwarm } from "./swarm.js";
import { password, walk } from "./walk.js";

const hostile = `"><img src=x onerror=alert(1)>`;

const here = walk();
const { fill, press, title, says, go, sound, wrong } = here;
let swarm: Swarm | undefined;
afterAll(() => swarm?.stop());

beforeAll(() => here.page.setDefaultTimeout(60_000)); // the first values take their time
let api: Client;
let organization = "";
let server = "";
let site = "";

const rangeCall = "**/chom.metric.v1.MetricService/QueryRange";
const asked = (request: Request): QueryRangeRequest => fromBinary(QueryRangeRequestSchema, request.postDataBuffer() ?? new Uint8Array());
const graph = (name: string) => here.page.getByRole("region", { name, exact: true });
/** The row of a line in a graph's table: newest, least, mean, most. */
const figures = async (name: string, line: string) => {
	const row = graph(name)
		.getByRole("row")
		.filter({ has: here.page.getByRole("rowheader", { name: new RegExp(`^${line}`) }) });
	await row.waitFor();
	return row.getByRole("cell").allInnerTexts();
};

/** What the API says of a line now, newest last, on the points that a page asks for. */
async function course(of: string, organizationId: string, query: (of: string, step: number) => string, line: string) {
	const { start, end, step } = windowOf({}, Date.now() / 1000);
	const seconds = (at: number) => ({ seconds: BigInt(at), nanos: 0 });
	const { matrix } = await api.metrics.queryRange({
		organizationId,
		query: query(of, step),
		startTime: seconds(start),
		endTime: seconds(end),
		step: seconds(step),
	});
	return matrix?.series.find(({ labels }) => labels.line === line)?.points.map(({ value }) => value) ?? [];
}

test("a server and a site are there, whose agent measures", async () => {
	await go(`/first-operator#${here.chomd.setupSecret}`);
	await fill("E-mail address", "operator@example.com");
	await fill("New password", password);
	await press("Begin");
	await title("Make your first organization");
	await fill("Name", "acme");
	await press("Create organization");
	await title("acme");
	const cookie = (await here.context.cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");
	api = connect({
		baseUrl: here.chomd.baseUrl,
		fetch: (input, init) => fetch(input, { ...init, headers: [...new Headers(init?.headers), ["Cookie", cookie], ["Origin", here.chomd.baseUrl]] }),
	});
	organization = (await api.organizations.listOrganizations({})).organizations[0]?.id ?? "";
	const made = await api.servers.createServer({ name: "web-1" });
	server = made.server?.id ?? "";
	swarm = await startSwarm(here.chomd.agentAddress, [made.joinToken?.token ?? ""], "20ms", "11s");
	await expect.poll(async () => (await api.servers.getServer({ serverId: server })).server?.facts?.prepared, { timeout: 30_000 }).toBe(true);
	const { site: blog } = await api.sites.createSite({ organizationId: organization, name: "blog", type: "static", domains: ["blog.example.com"] });
	site = blog?.id ?? "";
	await go(`/o/${organization}/sites/${site}?tab=graphs`);
	await says("No values yet");
	await says(/The first ones come two minutes after the site is served/);
	await sound("graphs-none");
	await expect.poll(async () => (await api.sites.getSite({ organizationId: organization, siteId: site })).site?.state, { timeout: 30_000 }).toBe(State.ACTIVE);
});

// Values take their time: hosts report, rates want two reports, and the control plane decides about backups once a minute.
const patience = { timeout: 240_000 };

test("what a host measured of itself is what its page shows, and goes on by itself", patience, async () => {
	await go(`/servers/${server}`);
	await graph("Processors").waitFor();
	const [disk] = serverGraphs.filter(({ key }) => key === "disk");
	const [load] = serverGraphs.filter(({ key }) => key === "load");
	const known = async () => {
		const full = await course(server, platform, disk?.query ?? String, "/");
		const one = await course(server, platform, load?.query ?? String, "one");
		const words = (value: number | undefined, unit: "ratio" | "number") => (value === undefined ? "" : inWords(value, unit, "en"));
		return {
			api: [words(full.at(-1), "ratio"), words(one.at(-1), "number"), words(Math.max(...one), "number")],
			page: [(await figures("Disks, how full", "/"))[0], (await figures("Load", "1 minute"))[0], (await figures("Load", "1 minute"))[3]],
		};
	};
	// The page looks once in 15 seconds: it says the same once it has looked.
	await expect
		.poll(
			async () => {
				const { api, page } = await known();
				return api.includes("") ? "not measured yet" : page.join() === api.join() ? "the same" : `${page} instead of ${api}`;
			},
			{ timeout: 60_000 },
		)
		.toBe("the same");
	const [before] = await figures("Load", "1 minute");
	await expect.poll(async () => (await figures("Load", "1 minute"))[0], { timeout: 90_000 }).not.toBe(before);
	await says(/of this span was not measured/); // it was not there an hour ago
	await figures("Processors", "in use");
	await figures("Processors", "waiting for disks");
	await sound("server-graphs");
});

test("what a site was asked for is what its page shows", async () => {
	await go(`/o/${organization}/sites/${site}?tab=graphs`);
	const [requests] = siteGraphs.filter(({ key }) => key === "requests");
	await figures("Requests", "2xx");
	await expect
		.poll(
			async () => {
				const newest = (await course(site, organization, requests?.query ?? String, "2xx")).at(-1);
				const [page] = await figures("Requests", "2xx");
				return page === (newest === undefined ? "" : inWords(newest, "perMinute", "en"));
			},
			{ timeout: 60_000 },
		)
		.toBe(true);
	const [failed] = await figures("Errors, of all requests", "5xx");
	expect(failed).toBe("1%");
	await figures("Time to answer", "95% are faster");
	await here.page.locator("canvas").first().waitFor();
	await sound("site-graphs");
});

test("how much disk a site takes is said with its state, and is a graph", patience, async () => {
	const settings = { title: "Diary", admin_user: "owner", admin_email: "owner@example.com" };
	const { site: made } = await api.sites.createSite({
		organizationId: organization,
		name: "diary",
		type: "wordpress",
		domains: ["diary.example.com"],
		settings,
	});
	const diary = made?.id ?? "";
	const query = "**/chom.metric.v1.MetricService/Query";
	const nothing = { contentType: "application/proto", body: Buffer.from(toBinary(QueryResponseSchema, create(QueryResponseSchema, {}))) };
	await here.page.route(query, (route) => route.fulfill(nothing)); // its first measurement may come before we do
	await go(`/o/${organization}/sites/${diary}`);
	await says("not measured yet");
	await sound("site-size-none");
	await here.page.unroute(query);
	const measured = here.page.getByRole("definition").filter({ hasText: /^Files\s\d+\sMB · Database\s[\d.]+\sMB/ });
	await measured.waitFor({ timeout: 90_000 });
	const { result } = await api.metrics.query({ organizationId: organization, query: `{__name__=~"chom_site_.*_bytes",site="${diary}"}` });
	const samples = result.case === "vector" ? result.value.samples : [];
	const known = (name: string) => inWords(samples.find(({ labels }) => labels.__name__ === name)?.point?.value ?? 0, "bytes", "en");
	const said = (await measured.innerText()).replaceAll(/\s+/g, " ");
	expect(said).toMatch(`Files ${known("chom_site_disk_bytes")} · Database ${known("chom_site_database_bytes")} measured `);
	const moment = Date.parse((await measured.locator("time").getAttribute("datetime")) ?? "");
	expect(Date.now() - moment).toBeGreaterThanOrEqual(0);
	expect(Date.now() - moment).toBeLessThan(180_000);
	await sound("site-size");
	await go(`/o/${organization}/sites/${diary}?tab=graphs`);
	expect((await figures("Disk", "files"))[0]).toBe(known("chom_site_disk_bytes"));
	expect((await figures("Disk", "database"))[0]).toBe(known("chom_site_database_bytes"));
	await graph("Disk").scrollIntoViewIfNeeded();
	await sound("site-size-graph");

	// A site without a database has none, and no zero.
	await go(`/o/${organization}/sites/${site}`);
	await says(/^Files\s\d+\sMB\s*measured/);
	await go(`/o/${organization}/sites/${site}?tab=graphs`);
	await figures("Disk", "files");
	expect(await graph("Disk").getByRole("rowheader").count()).toBe(1);
});

test("another span is another question, which is in the address", async () => {
	const one = (calls: QueryRangeRequest) => Number((calls.endTime?.seconds ?? 0n) - (calls.startTime?.seconds ?? 0n));
	const next = here.page.waitForRequest(rangeCall);
	await here.page.getByText("7 d", { exact: true }).click();
	expect(Math.abs(one(asked(await next)) - 7 * 86_400)).toBeLessThan(3_600);
	await here.page.waitForURL(/range=7d/);
	await here.page.reload();
	expect(await here.page.getByRole("radio", { name: "7 d" }).isChecked()).toBe(true);
	const back = here.page.waitForRequest(rangeCall);
	await here.page.getByText("1 h", { exact: true }).click();
	expect(one(asked(await back))).toBeLessThanOrEqual(3_600);
});

test("one zooms by dragging over a graph, and gets back", async () => {
	const plot = graph("Requests").locator(".u-over");
	await plot.scrollIntoViewIfNeeded();
	const box = await plot.boundingBox();
	if (!box) throw new Error("there is no graph");
	const [y, from, to] = [box.y + box.height / 2, box.x + box.width / 4, box.x + (box.width * 3) / 4];
	const next = here.page.waitForRequest(rangeCall);
	await here.page.mouse.move(from, y);
	await here.page.mouse.down();
	await here.page.mouse.move(to, y, { steps: 5 });
	await here.page.mouse.up();
	const { startTime, endTime } = asked(await next);
	const length = Number((endTime?.seconds ?? 0n) - (startTime?.seconds ?? 0n));
	expect(length).toBeGreaterThan(1_600);
	expect(length).toBeLessThan(2_000);
	await here.page.waitForURL(/from=\d+&to=\d+/);
	await press("Earlier");
	await says("Nothing was measured in this span");
	await press("Back to now");
	await here.page.waitForURL((url) => !url.search.includes("from="));
	await here.page.goBack();
	await here.page.goBack();
	await here.page.waitForURL(/from=\d+&to=\d+/); // the way of the browser, too
	await press("Back to now");
	await says("Goes on by itself");
});

test("a gap is a gap and no zero, and what hosts name is text", async () => {
	await here.page.route(rangeCall, (route, request) => {
		const { startTime, endTime, step, query } = asked(request);
		const [start, end, by] = [Number(startTime?.seconds), Number(endTime?.seconds), Number(step?.seconds)];
		// Of the whole span, the middle third was not measured.
		const points = Array.from({ length: (end - start) / by + 1 }, (_, place) => ({ part: (place * by) / (end - start), at: start + place * by }))
			.filter(({ part }) => part < 1 / 3 || part > 2 / 3)
			.map(({ at, part }) => ({ time: { seconds: BigInt(at), nanos: 0 }, value: 0.5 + 0.3 * Math.sin(part * 40) }));
		const names = query.includes("mountpoint") ? ["/", hostile] : [...query.matchAll(/"line", "(\w+)"/g)].map(([, name]) => name ?? "");
		const unit = /node_(memory|network|disk)_/.test(query) ? 1e9 : 1;
		const series = names.map((line, place) => ({
			labels: { line },
			points: points.map(({ time, value }) => ({ time, value: (value * unit) / (place + 1) })),
		}));
		return route.fulfill({
			contentType: "application/proto",
			body: Buffer.from(toBinary(QueryRangeResponseSchema, create(QueryRangeResponseSchema, { matrix: { series } }))),
		});
	});
	await go(`/servers/${server}?range=24h`);
	await says("33% of this span was not measured");
	expect(await graph("Disks, how full").getByRole("rowheader", { name: hostile }).count()).toBe(1);
	const [, least] = await figures("Processors", "in use");
	expect(least).toBe("20%"); // a gap that counted as zero would be the least
	const over = graph("Processors").locator(".u-over");
	await over.scrollIntoViewIfNeeded();
	const box = await over.boundingBox();
	if (!box) throw new Error("there is no graph");
	await here.page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
	await expect.poll(async () => (await figures("Processors", "in use"))[0]).toBe("–");
	expect((await figures("Load", "5 minutes"))[0]).toBe("–"); // the crosshair is the same in all
	await here.page.mouse.move(box.x + box.width / 5, box.y + box.height / 2);
	await expect.poll(async () => (await figures("Load", "5 minutes"))[0]).not.toBe("–");
	await here.page.mouse.move(0, 0);
	// In the picture itself there is ink of the line on both sides, and none between.
	const inked = await graph("Memory")
		.locator("canvas")
		.evaluate((canvas: HTMLCanvasElement) => {
			const color = getComputedStyle(canvas).getPropertyValue("--chom-line-1").trim();
			const want = [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16));
			const over = canvas.parentElement?.querySelector(".u-over") as HTMLElement;
			const scale = canvas.width / canvas.clientWidth;
			const [left, width] = [over.offsetLeft * scale, over.clientWidth * scale];
			const count = (from: number, to: number) => {
				const { data } = (canvas.getContext("2d") as CanvasRenderingContext2D).getImageData(
					left + width * from,
					0,
					width * (to - from),
					over.clientHeight * scale,
				);
				let found = 0;
				for (let at = 0; at < data.length; at += 4)
					if (want.every((part, place) => Math.abs((data[at + place] ?? 0) - part) < 30) && (data[at + 3] ?? 0) > 200) found++;
				return found;
			};
			return [count(0.05, 0.3), count(0.36, 0.64), count(0.7, 0.95)];
		});
	expect(inked[0]).toBeGreaterThan(50);
	expect(inked[1]).toBe(0);
	expect(inked[2]).toBeGreaterThan(50);
	await sound("graphs-gap");
	await here.page.unroute(rangeCall);
});

test("lists have sparklines, of all in sight by one call", async () => {
	const calls: number[] = [];
	here.page.on("request", (request) => {
		if (request.url().endsWith("/Sparklines")) calls.push(fromBinary(SparklinesRequestSchema, request.postDataBuffer() ?? new Uint8Array()).siteIds.length);
	});
	for (const name of ["shop", "docs", "news"])
		await api.sites.createSite({ organizationId: organization, name, type: "static", domains: [`${name}.example.com`] });
	await go(`/o/${organization}/sites`);
	const newest = here.page
		.getByRole("row")
		.filter({ hasText: "blog" })
		.getByText(/\/min$/);
	await newest.waitFor();
	expect(calls).toEqual([5]);
	const { sparklines } = await api.metrics.sparklines({
		organizationId: organization,
		siteIds: [site],
		figure: Figure.REQUESTS,
		window: { seconds: 86_400n, nanos: 0 },
	});
	expect(Number.parseFloat(await newest.innerText())).toBeCloseTo((sparklines[0]?.points.at(-1)?.value ?? 0) * 60, -1);
	await sound("sites-sparklines");
	await go("/servers");
	const row = here.page.getByRole("row").filter({ hasText: "web-1" });
	await row.locator("svg").nth(1).waitFor();
	const cpu = await api.metrics.sparklines({ organizationId: platform, serverIds: [server], figure: Figure.CPU });
	const [, , load] = await row.getByRole("cell").allInnerTexts();
	expect(Math.abs(Number.parseFloat(load ?? "") - (cpu.sparklines[0]?.points.at(-1)?.value ?? 0) * 100)).toBeLessThan(5);
	await sound("servers-sparklines");
});

test("what happened to a site is told newest first, page by page, and leads to its tasks", async () => {
	const request = { organizationId: organization, siteId: site };
	const settled = () => expect.poll(async () => (await api.tasks.listTasks({ ...request, states: [1, 2, 3] })).tasks.length, { timeout: 30_000 }).toBe(0);
	for (let times = 0; times < 6; times++) {
		await api.sites.suspendSite(request);
		await settled();
		await api.sites.resumeSite(request);
		await settled();
	}
	await go(`/o/${organization}/sites/${site}`);
	const events = here.page.getByRole("region", { name: "What happened" }).getByRole("listitem");
	await events.first().waitFor();
	expect(await events.count()).toBe(10);
	await sound("site-timeline");
	await press("Show older");
	await expect.poll(() => events.count()).toBe(13);
	const moments = await events.locator("time").evaluateAll((all) => all.map((time) => Date.parse(time.getAttribute("datetime") ?? "")));
	expect(moments).toEqual([...moments].sort((a, b) => b - a));
	await events.first().getByRole("link", { name: "Brought to what is wanted" }).click();
	await title("Bringing the site to what is wanted");
});

test("backups that fail show where all sites do, and on the overview", patience, async () => {
	await api.backups.createBackup({ organizationId: organization, siteId: site }); // simulated hosts make none
	await expect
		.poll(async () => (await api.backups.listBackupStatuses({ organizationId: organization, attentionOnly: true })).statuses.map(({ siteName }) => siteName), {
			timeout: 90_000,
		})
		.toEqual(["blog"]);
	await go(`/o/${organization}`);
	await says("The newest backup of blog failed");
	await sound("overview-backups");
	await go(`/o/${organization}/sites`);
	await here.page.getByRole("row").filter({ hasText: "blog" }).getByText("Failing").waitFor();
	await here.page.getByRole("row").filter({ hasText: "shop" }).getByText("None yet").waitFor();
	await sound("sites-backups");
});

test("on a phone nothing is wider than the phone", async () => {
	await here.page.setViewportSize({ width: 390, height: 780 });
	const pages = [`/servers`, `/servers/${server}`, `/o/${organization}/tasks`, `/o/${organization}/sites`, `/o/${organization}/sites/${site}?tab=graphs`];
	for (const path of pages) {
		await go(path);
		await here.page.getByRole("heading", { level: 1 }).waitFor();
		await here.page.waitForLoadState("networkidle", { timeout: 3_000 }).catch(() => undefined);
		const wide = await here.page.evaluate(() => {
			const over = [...document.querySelectorAll("main *")].filter((node) => !node.closest("thead") && node.getBoundingClientRect().right > innerWidth + 1);
			return over.map((node) => `${node.tagName} ${node.className} ${node.textContent?.slice(0, 40)}`).slice(0, 5);
		});
		expect(wide, path).toEqual([]);
	}
	await go(`/o/${organization}/sites/${site}?tab=graphs`);
	await graph("Requests").locator(".u-over").waitFor();
	await graph("Requests")
		.locator(".u-over")
		.evaluate((over) => {
			const box = over.getBoundingClientRect();
			const touch = new Touch({ identifier: 1, target: over, clientX: box.left + box.width / 2, clientY: box.top + 20 });
			over.dispatchEvent(new TouchEvent("touchmove", { touches: [touch], bubbles: true }));
		});
	await graph("Requests")
		.getByRole("columnheader", { name: /^\d\d:\d\d$/ })
		.waitFor(); // a finger is a crosshair
	await go("/servers");
	await here.page.getByRole("cell", { name: "web-1" }).waitFor(); // it stays a table to those who hear it
	await here.page.setViewportSize({ width: 1280, height: 860 });
});

test("graphs speak German", async () => {
	await here.page.evaluate(() => localStorage.setItem("chom-language", "de"));
	await go(`/o/${organization}/sites/${site}?tab=graphs`);
	await says("Läuft von selbst weiter");
	expect((await figures("Fehler, von allen Anfragen", "5xx"))[0]).toBe("1\u00a0%");
	expect((await figures("Speicherplatz", "Dateien"))[0]).toMatch(/^\d+\sMB$/);
	await sound("site-graphs-german");
	await go(`/o/${organization}/sites/${site}`);
	await says("Was geschah");
	await says(/^Dateien\s\d+\sMB\s*gemessen vor/);
	await sound("site-german");
	await here.page.evaluate(() => localStorage.removeItem("chom-language"));
});

test("no script failed, and nothing was refused by the policy", () => expect(wrong).toEqual([]));
