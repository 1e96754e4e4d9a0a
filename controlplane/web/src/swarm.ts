// Simulated agents for tests: SWARM names the program, which enrols for real and works on hosts that are not there.
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Swarm {
	/** Kills the agents. */
	stop(): Promise<void>;
}

/**
 * Lets an agent enrol with each token, at the agents' door of a control plane. A step of a site takes up to this long. With a time
 * between two reports, agents report what a small web server would measure of itself and of its sites.
 */
export async function startSwarm(agentAddress: string, tokens: string[], stepTime: string, measuredEvery?: string): Promise<Swarm> {
	const folder = await mkdtemp(join(tmpdir(), "chom-swarm-"));
	const flags = [
		"--server",
		agentAddress,
		"--dir",
		join(folder, "agents"),
		"--ledger",
		join(folder, "ledger"),
		"--agents",
		String(tokens.length),
		"--ramp",
		"0s",
		"--step-time",
		stepTime,
		"--quiet",
		...(measuredEvery ? ["--measure", "--sample-every", measuredEvery] : []),
	];
	const swarm = spawn(process.env.SWARM ?? "", ["run", ...flags], { stdio: ["pipe", "ignore", "ignore"] });
	swarm.stdin?.end(tokens.map((token) => `${token}\n`).join(""));
	return {
		async stop() {
			swarm.kill();
			await new Promise((done) => swarm.once("exit", done));
			await rm(folder, { recursive: true });
		},
	};
}
