// How long somebody in front of the dashboard waits, for tests and for packaging/bench. Nothing is judged here.
import type { Page } from "playwright-core";

/** Presses keys in the field that has the focus, of a list whose count each of them changes; gives the milliseconds from each to the frame that has the new count in it. */
export async function keysToPaint(page: Page, keys: readonly string[]): Promise<number[]> {
	await page.evaluate(() => {
		const took: number[] = [];
		Object.assign(globalThis, { took });
		let pressed = 0;
		addEventListener("keydown", () => (pressed = performance.now()), { capture: true });
		new MutationObserver(() => {
			const since = pressed;
			requestAnimationFrame(() => setTimeout(() => took.push(performance.now() - since)));
		}).observe(document.querySelector("[role=search] [role=status]") as Node, { subtree: true, characterData: true, childList: true });
	});
	for (const [place, key] of keys.entries()) {
		await page.keyboard.press(key);
		// Looked for seldom: in each frame it would be a part of what is measured.
		await page.waitForFunction((count) => (globalThis as unknown as { took: number[] }).took.length === count, place + 1, { polling: 100 });
	}
	return page.evaluate(() => (globalThis as unknown as { took: number[] }).took);
}

/**
 * Has a server's page try whether tasks get through, and gives the milliseconds from the beginning and the end of each step on the host
 * until they show; Infinity where one was not seen. The host's clock is this machine's.
 */
export async function stepLags(page: Page): Promise<number[]> {
	await page.evaluate(() => {
		const seen: Record<string, number> = {};
		Object.assign(globalThis, { seen });
		new MutationObserver(() => {
			for (const [place, step] of document.querySelectorAll("main ol li").entries()) seen[`${place} ${step.textContent?.includes("Done")}`] ??= Date.now();
		}).observe(document.body, { subtree: true, childList: true, characterData: true });
	});
	await page.getByRole("button", { name: "Try whether tasks get through" }).click();
	await page.getByText("3 of 3 steps").waitFor();
	return page.evaluate(async () => {
		const { seen } = globalThis as unknown as { seen: Record<string, number> };
		const [, organizationId, taskId] = /\/o\/([^/]+)\/tasks\/([^/]+)/.exec(location.pathname) ?? [];
		const answer = await fetch("/chom.task.v1.TaskService/GetTask", {
			method: "POST",
			headers: { "Content-Type": "application/json" },
			body: JSON.stringify({ organizationId, taskId }),
		});
		const { task } = (await answer.json()) as { task: { steps: { startTime: string; endTime: string }[] } };
		return task.steps.flatMap(({ startTime, endTime }, place) => {
			const ended = seen[`${place} true`] ?? Number.POSITIVE_INFINITY;
			return [(seen[`${place} false`] ?? ended) - Date.parse(startTime), ended - Date.parse(endTime)];
		});
	});
}
